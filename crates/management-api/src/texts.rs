//! Everything the API says when it refuses something: codes for programs, words in English and French for people.

use actix_web::http::StatusCode;
use domain::limits::{MAX_DESCRIPTION_CHARS, MAX_URL_CHARS};
use domain::webhook_url::UrlError;

use crate::language::Language;

/// Why a request, or one field of it, was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    // The request as a whole.
    MalformedJson {
        offset: usize,
        what: &'static str,
    },
    NotAnObject,
    BodyTimeout,
    BodyTooLarge {
        limit: usize,
    },
    UnsupportedMediaType,
    UnsupportedEncoding,
    NotFound,
    MethodNotAllowed,
    ValidationFailed,
    WebhookLimitReached {
        limit: u32,
    },
    IdempotencyKeyReused,
    NotSubscribed {
        event: &'static str,
    },
    WebhookInactive,
    TooManyRequests,
    TooManyTestEvents,
    TooManyIdempotencyKeys {
        limit: u32,
    },
    TargetTooLong {
        limit: usize,
    },
    TooManyHeaderFields {
        limit: usize,
    },
    Unavailable,
    Internal,
    /// An error of the HTTP layer that has no words of its own.
    Refused,

    // Tokens.
    TokenMissing,
    TokenMalformed,
    TokenTooLarge,
    TokenAlgorithm,
    TokenSignature,
    TokenExpired,
    TokenWithoutExpiry,
    TokenLifetime,
    TokenNotYetValid,
    TokenIssuer,
    TokenAudience,
    TokenSubject,
    TokenKeysUnavailable,

    // Fields.
    Required,
    UnknownField,
    WrongType {
        expected: JsonType,
    },
    NumberOutOfRange,
    LoneSurrogate,
    Url(UrlError),
    TooFewEvents,
    TooManyEvents {
        limit: u32,
    },
    UnknownEventType,
    Duplicate,
    DescriptionTooLong,
    InvalidCharacters,
    UnknownStatus,
    NotInRange {
        min: u32,
        max: u32,
    },
    RepeatedParameter,
    IdempotencyKeyInvalid,
}

/// What a field's value has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JsonType {
    String,
    StringOrNull,
    ArrayOfStrings,
    Boolean,
}

impl JsonType {
    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::String => ("a string", "une chaîne de caractères"),
            Self::StringOrNull => ("a string or null", "une chaîne de caractères ou null"),
            Self::ArrayOfStrings => ("an array of strings", "un tableau de chaînes de caractères"),
            Self::Boolean => ("true or false", "true ou false"),
        }
    }
}

impl Reason {
    /// The code that programs go by. Codes are never changed.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::MalformedJson { .. } => "malformed_json",
            Self::NotAnObject => "not_an_object",
            Self::BodyTimeout => "request_timeout",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnsupportedEncoding => "unsupported_content_encoding",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::ValidationFailed => "validation_failed",
            Self::WebhookLimitReached { .. } => "webhook_limit_reached",
            Self::IdempotencyKeyReused => "idempotency_key_reused",
            Self::NotSubscribed { .. } => "event_not_subscribed",
            Self::WebhookInactive => "webhook_inactive",
            Self::TooManyRequests => "rate_limited",
            Self::TooManyTestEvents => "too_many_test_events",
            Self::TooManyIdempotencyKeys { .. } => "too_many_idempotency_keys",
            Self::TargetTooLong { .. } => "uri_too_long",
            Self::TooManyHeaderFields { .. } => "too_many_header_fields",
            Self::Unavailable => "service_unavailable",
            Self::Internal => "internal_error",
            Self::Refused => "request_refused",
            Self::TokenMissing => "token_missing",
            Self::TokenMalformed => "token_malformed",
            Self::TokenTooLarge => "token_too_large",
            Self::TokenAlgorithm => "token_algorithm_not_accepted",
            Self::TokenSignature => "token_signature_invalid",
            Self::TokenExpired => "token_expired",
            Self::TokenWithoutExpiry => "token_without_expiry",
            Self::TokenLifetime => "token_lifetime_too_long",
            Self::TokenNotYetValid => "token_not_yet_valid",
            Self::TokenIssuer => "token_issuer_invalid",
            Self::TokenAudience => "token_audience_invalid",
            Self::TokenSubject => "token_subject_invalid",
            Self::TokenKeysUnavailable => "token_keys_unavailable",
            Self::Required => "required",
            Self::UnknownField => "unknown_field",
            Self::WrongType { .. } => "wrong_type",
            Self::NumberOutOfRange => "number_out_of_range",
            Self::LoneSurrogate => "lone_surrogate",
            Self::Url(error) => error.code(),
            Self::TooFewEvents => "too_few_events",
            Self::TooManyEvents { .. } => "too_many_events",
            Self::UnknownEventType => "unknown_event_type",
            Self::Duplicate => "duplicate",
            Self::DescriptionTooLong => "too_long",
            Self::InvalidCharacters => "invalid_characters",
            Self::UnknownStatus => "unknown_status",
            Self::NotInRange { .. } => "not_in_range",
            Self::RepeatedParameter => "repeated_parameter",
            Self::IdempotencyKeyInvalid => "idempotency_key_invalid",
        }
    }

    /// The words for people.
    pub(crate) fn text(&self, language: Language) -> String {
        match language {
            Language::English => self.english(),
            Language::French => self.french(),
        }
    }

    fn english(&self) -> String {
        let text = match self {
            Self::MalformedJson { offset, what } => {
                return format!("The body is not valid JSON: expected {what} at byte {offset}.");
            }
            Self::NotAnObject => "The body must be a JSON object.",
            Self::BodyTimeout => "The body did not arrive in time.",
            Self::BodyTooLarge { limit } => return format!("The body must have at most {limit} bytes."),
            Self::UnsupportedMediaType => "The body must be sent as Content-Type: application/json in UTF-8.",
            Self::UnsupportedEncoding => "The body must be sent without Content-Encoding.",
            Self::NotFound => "There is nothing at this address, or it is not yours.",
            Self::MethodNotAllowed => {
                "This method is not allowed here; the Allow header lists those that are."
            }
            Self::ValidationFailed => "The request is not valid; `errors` lists every field to correct.",
            Self::WebhookLimitReached { limit } => {
                return format!("You have {limit} webhooks already, the most one user may have.");
            }
            Self::IdempotencyKeyReused => {
                "This Idempotency-Key was used for another request, or the webhook it created is gone; \
                 use a new key."
            }
            Self::NotSubscribed { event } => {
                return format!("This webhook does not subscribe to {event}; add it to `events` first.");
            }
            Self::WebhookInactive => "This webhook is inactive; set `active` to true first.",
            Self::TooManyRequests => "Too many requests; the Retry-After header tells when to send the next.",
            Self::TooManyTestEvents => {
                "Too many test events within a minute or a day; the Retry-After header tells when to send the next."
            }
            Self::TooManyIdempotencyKeys { limit } => {
                return format!(
                    "You have used {limit} Idempotency-Keys within 24 hours, the most one user may use."
                );
            }
            Self::TargetTooLong { limit } => {
                return format!("Path and query together must have at most {limit} bytes.");
            }
            Self::TooManyHeaderFields { limit } => {
                return format!("The request must have at most {limit} header fields.");
            }
            Self::Unavailable => "The service is not available for the moment; please try again.",
            Self::Internal => "Something went wrong on our side; it has been recorded.",
            Self::Refused => "The request was refused.",
            Self::TokenMissing => "This call needs the header Authorization: Bearer followed by a token.",
            Self::TokenMalformed => "The token is not a JSON Web Token.",
            Self::TokenTooLarge => "The token is too large.",
            Self::TokenAlgorithm => "The token's algorithm is not accepted.",
            Self::TokenSignature => "The token's signature is not valid.",
            Self::TokenExpired => "The token has expired.",
            Self::TokenWithoutExpiry => "The token has no expiry (exp).",
            Self::TokenLifetime => "The token is valid for too long (exp).",
            Self::TokenNotYetValid => "The token is not valid yet (nbf).",
            Self::TokenIssuer => "The token's issuer (iss) is not accepted.",
            Self::TokenAudience => "The token is not meant for this service (aud).",
            Self::TokenSubject => "The token does not name a user (sub).",
            Self::TokenKeysUnavailable => "The token cannot be checked for the moment; please try again.",
            Self::Required => "This field is required.",
            Self::UnknownField => "This field does not exist.",
            Self::WrongType { expected } => return format!("This must be {}.", expected.texts().0),
            Self::NumberOutOfRange => "This number cannot be represented exactly.",
            Self::LoneSurrogate => "This text holds half of a surrogate pair.",
            Self::Url(error) => return format!("The URL {error}."),
            Self::TooFewEvents => "Name at least one event type.",
            Self::TooManyEvents { limit } => return format!("Name at most {limit} event types."),
            Self::UnknownEventType => "This event type does not exist; GET /api/event-types lists all.",
            Self::Duplicate => "This event type is named twice.",
            Self::DescriptionTooLong => {
                return format!("The description must have at most {MAX_DESCRIPTION_CHARS} characters.");
            }
            Self::InvalidCharacters => "The null character is not allowed.",
            Self::UnknownStatus => "This must be pending, success or failed.",
            Self::NotInRange { min, max } => {
                return format!("This must be a whole number from {min} to {max}.");
            }
            Self::RepeatedParameter => "This parameter may stand only once.",
            Self::IdempotencyKeyInvalid => {
                "Idempotency-Key must be one value of 1 to 255 visible ASCII characters."
            }
        };
        text.to_owned()
    }

    fn french(&self) -> String {
        let text = match self {
            Self::MalformedJson { offset, .. } => {
                return format!("Le corps n'est pas du JSON valide : erreur à l'octet {offset}.");
            }
            Self::NotAnObject => "Le corps doit être un objet JSON.",
            Self::BodyTimeout => "Le corps n'est pas arrivé à temps.",
            Self::BodyTooLarge { limit } => return format!("Le corps doit compter au plus {limit} octets."),
            Self::UnsupportedMediaType => {
                "Le corps doit être envoyé avec Content-Type: application/json, en UTF-8."
            }
            Self::UnsupportedEncoding => "Le corps doit être envoyé sans Content-Encoding.",
            Self::NotFound => "Il n'y a rien à cette adresse, ou cela ne vous appartient pas.",
            Self::MethodNotAllowed => {
                "Cette méthode n'est pas permise ici ; l'en-tête Allow énumère celles qui le sont."
            }
            Self::ValidationFailed => {
                "La requête n'est pas valide ; `errors` énumère chaque champ à corriger."
            }
            Self::WebhookLimitReached { limit } => {
                return format!("Vous avez déjà {limit} webhooks, le maximum par utilisateur.");
            }
            Self::IdempotencyKeyReused => {
                "Cette Idempotency-Key a servi à une autre requête, ou le webhook qu'elle a créé n'existe plus ; \
                 utilisez une nouvelle clé."
            }
            Self::NotSubscribed { event } => {
                return format!("Ce webhook n'est pas abonné à {event} ; ajoutez-le d'abord à `events`.");
            }
            Self::WebhookInactive => "Ce webhook est inactif ; mettez d'abord `active` à true.",
            Self::TooManyRequests => {
                "Trop de requêtes ; l'en-tête Retry-After indique quand envoyer la suivante."
            }
            Self::TooManyTestEvents => {
                "Trop d'événements de test en une minute ou une journée ; l'en-tête Retry-After indique quand envoyer le suivant."
            }
            Self::TooManyIdempotencyKeys { limit } => {
                return format!(
                    "Vous avez utilisé {limit} Idempotency-Key en 24 heures, le maximum par utilisateur."
                );
            }
            Self::TargetTooLong { limit } => {
                return format!("Le chemin et la requête doivent compter ensemble au plus {limit} octets.");
            }
            Self::TooManyHeaderFields { limit } => {
                return format!("La requête doit compter au plus {limit} champs d'en-tête.");
            }
            Self::Unavailable => "Le service est momentanément indisponible ; veuillez réessayer.",
            Self::Internal => "Une erreur s'est produite de notre côté ; elle a été enregistrée.",
            Self::Refused => "La requête a été refusée.",
            Self::TokenMissing => "Cet appel exige l'en-tête Authorization: Bearer suivi d'un jeton.",
            Self::TokenMalformed => "Le jeton n'est pas un JSON Web Token.",
            Self::TokenTooLarge => "Le jeton est trop grand.",
            Self::TokenAlgorithm => "L'algorithme du jeton n'est pas accepté.",
            Self::TokenSignature => "La signature du jeton n'est pas valide.",
            Self::TokenExpired => "Le jeton a expiré.",
            Self::TokenWithoutExpiry => "Le jeton n'a pas d'expiration (exp).",
            Self::TokenLifetime => "Le jeton est valable trop longtemps (exp).",
            Self::TokenNotYetValid => "Le jeton n'est pas encore valable (nbf).",
            Self::TokenIssuer => "L'émetteur du jeton (iss) n'est pas accepté.",
            Self::TokenAudience => "Le jeton n'est pas destiné à ce service (aud).",
            Self::TokenSubject => "Le jeton ne désigne pas d'utilisateur (sub).",
            Self::TokenKeysUnavailable => {
                "Le jeton ne peut pas être vérifié pour le moment ; veuillez réessayer."
            }
            Self::Required => "Ce champ est obligatoire.",
            Self::UnknownField => "Ce champ n'existe pas.",
            Self::WrongType { expected } => return format!("La valeur doit être {}.", expected.texts().1),
            Self::NumberOutOfRange => "Ce nombre ne peut pas être représenté exactement.",
            Self::LoneSurrogate => "Ce texte contient la moitié d'une paire de substitution.",
            Self::Url(error) => return url_in_french(error),
            Self::TooFewEvents => "Indiquez au moins un type d'événement.",
            Self::TooManyEvents { limit } => {
                return format!("Indiquez au plus {limit} types d'événements.");
            }
            Self::UnknownEventType => {
                "Ce type d'événement n'existe pas ; GET /api/event-types les énumère tous."
            }
            Self::Duplicate => "Ce type d'événement est indiqué deux fois.",
            Self::DescriptionTooLong => {
                return format!("La description doit compter au plus {MAX_DESCRIPTION_CHARS} caractères.");
            }
            Self::InvalidCharacters => "Le caractère nul n'est pas permis.",
            Self::UnknownStatus => "La valeur doit être pending, success ou failed.",
            Self::NotInRange { min, max } => {
                return format!("La valeur doit être un nombre entier de {min} à {max}.");
            }
            Self::RepeatedParameter => "Ce paramètre ne peut figurer qu'une fois.",
            Self::IdempotencyKeyInvalid => {
                "Idempotency-Key doit être une seule valeur de 1 à 255 caractères ASCII visibles."
            }
        };
        text.to_owned()
    }
}

fn url_in_french(error: &UrlError) -> String {
    let text = match error {
        UrlError::TooLong => return format!("L'URL doit compter au plus {MAX_URL_CHARS} caractères."),
        UrlError::NotAbsolute => "L'URL doit être absolue, comme https://example.com/webhooks.",
        UrlError::Scheme => "L'URL doit commencer par https://.",
        UrlError::UserInfo => "L'URL ne doit contenir ni nom d'utilisateur ni mot de passe.",
        UrlError::Fragment => "L'URL ne doit pas contenir de fragment (#…).",
        UrlError::BlockedAddress(_) | UrlError::NotPublic(_) => "L'URL doit mener à une adresse publique.",
        UrlError::BlockedPort(blocked) => {
            return format!("L'URL doit mener à un serveur web : le port {} n'en est pas un.", blocked.0);
        }
    };
    text.to_owned()
}

/// The title of a status.
pub(crate) fn title(status: StatusCode, language: Language) -> &'static str {
    let french = match status {
        StatusCode::BAD_REQUEST => "Requête incorrecte",
        StatusCode::UNAUTHORIZED => "Authentification requise",
        StatusCode::NOT_FOUND => "Introuvable",
        StatusCode::METHOD_NOT_ALLOWED => "Méthode non permise",
        StatusCode::REQUEST_TIMEOUT => "Délai dépassé",
        StatusCode::CONFLICT => "Conflit",
        StatusCode::PAYLOAD_TOO_LARGE => "Corps trop grand",
        StatusCode::URI_TOO_LONG => "Adresse trop longue",
        StatusCode::TOO_MANY_REQUESTS => "Trop de requêtes",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "En-têtes trop grands",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "Type de contenu non accepté",
        StatusCode::UNPROCESSABLE_ENTITY => "Requête non valide",
        StatusCode::SERVICE_UNAVAILABLE => "Service indisponible",
        StatusCode::INTERNAL_SERVER_ERROR => "Erreur interne",
        _ => "Erreur",
    };
    match language {
        Language::English => status.canonical_reason().unwrap_or("Error"),
        Language::French => french,
    }
}
