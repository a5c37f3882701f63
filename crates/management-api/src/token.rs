//! What a bearer token says, and whether to believe it (RFC 7519, RFC 8725).

use domain::{Timestamp, UserId};
use ingress::Network;
use serde::Deserialize;
use service::Clock;
use service::settings::Auth;
use tracing::warn;

use crate::jwks::{self, Jwks, Keeper};
use crate::jws::Presented;
use crate::keys::{self, Judgement, Key, KeysError, judge};
use crate::texts::Reason;

/// Larger tokens are refused before anything of them is looked at.
const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Checks tokens.
pub(crate) struct Verifier {
    keys: Vec<Key>,
    jwks: Option<Jwks>,
    expected: Expected,
}

/// What claims have to say.
struct Expected {
    issuer: Option<String>,
    audience: Option<String>,
    leeway_seconds: f64,
    max_lifetime_seconds: f64,
}

/// The claims that mean something here. One that stands twice is an error (RFC 7519 §4).
#[derive(Debug, Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn includes(&self, name: &str) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::Several(several) => several.iter().any(|one| one == name),
        }
    }
}

impl Verifier {
    /// With the configured keys, and the task that fetches those of `auth.jwks_url`, which has to be run.
    pub(crate) fn new(auth: &Auth) -> Result<(Self, Option<Keeper>), KeysError> {
        let expected = Expected {
            issuer: auth.issuer.clone(),
            audience: auth.audience.clone(),
            leeway_seconds: auth.leeway.0.as_secs_f64(),
            max_lifetime_seconds: auth.max_lifetime.0.as_secs_f64(),
        };
        let has_public_keys = auth.jwks_file.is_some() || auth.jwks_url.is_some();
        if has_public_keys && (auth.issuer.is_none() || auth.audience.is_none()) {
            warn!(
                "auth.issuer or auth.audience is not set: tokens that the provider signs for other services are accepted here"
            );
        }
        let (jwks, keeper) = jwks::configured(auth)?.unzip();
        Ok((Self { keys: keys::configured(auth)?, jwks, expected }, keeper))
    }

    /// The user whom a token stands for, or why it is not believed. Waits for the provider of keys only if the token
    /// names one that is not known, and then within bounds, which are also those of the address it comes from.
    pub(crate) async fn verify(&self, token: &str, from: Network, clock: &Clock) -> Result<UserId, Reason> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Reason::TokenTooLarge);
        }
        let token = Presented::read(token)?;
        self.check_signature(&token, from).await?;
        self.expected.check(token.payload()?, clock.now())
    }

    async fn check_signature(&self, token: &Presented<'_>, from: Network) -> Result<(), Reason> {
        let own = judge(&self.keys, token);
        match (own, &self.jwks) {
            (Judgement::NotOurs | Judgement::OtherAlgorithm, Some(jwks))
                if token.algorithm.has_public_keys() =>
            {
                check_with_provider(jwks, own, token, from).await
            }
            _ => verdict(own),
        }
    }
}

/// With the provider's keys, which are asked for again if none of them may be the token's: it is not refused before the
/// provider was asked after it came. `own` is what the others gave.
async fn check_with_provider(
    jwks: &Jwks,
    own: Judgement,
    token: &Presented<'_>,
    from: Network,
) -> Result<(), Reason> {
    let mut known = jwks.known();
    let mut question = jwks.question(from);
    loop {
        let keys = known.keys.as_deref().ok_or(Reason::TokenKeysUnavailable)?;
        let judgement = judge(keys, token);
        match judgement {
            Judgement::Signed | Judgement::Forged => return verdict(judgement),
            Judgement::NotOurs | Judgement::OtherAlgorithm if !question.is_answered_by(&known) => {}
            // The key may be one that the provider would tell if it answered.
            _ if !known.is_current => return Err(Reason::TokenKeysUnavailable),
            Judgement::OtherAlgorithm => return verdict(own),
            Judgement::NotOurs => return verdict(Judgement::NotOurs),
        }
        known = jwks.newer_than(&known, &mut question).await.ok_or(Reason::TokenKeysUnavailable)?;
    }
}

fn verdict(judgement: Judgement) -> Result<(), Reason> {
    match judgement {
        Judgement::Signed => Ok(()),
        Judgement::Forged | Judgement::NotOurs => Err(Reason::TokenSignature),
        Judgement::OtherAlgorithm => Err(Reason::TokenAlgorithm),
    }
}

impl Expected {
    fn check(&self, claims: Claims, now: Timestamp) -> Result<UserId, Reason> {
        #[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
        let now = now.timestamp_millis() as f64 / 1000.0;
        let expiry = claims.exp.ok_or(Reason::TokenWithoutExpiry)?;
        if expiry + self.leeway_seconds <= now {
            return Err(Reason::TokenExpired);
        }
        if expiry - self.max_lifetime_seconds - self.leeway_seconds > now {
            return Err(Reason::TokenLifetime);
        }
        if claims.nbf.is_some_and(|not_before| not_before - self.leeway_seconds > now) {
            return Err(Reason::TokenNotYetValid);
        }
        if self.issuer.is_some() && self.issuer != claims.iss {
            return Err(Reason::TokenIssuer);
        }
        if let Some(audience) = &self.audience
            && !claims.aud.is_some_and(|named| named.includes(audience))
        {
            return Err(Reason::TokenAudience);
        }
        let subject = claims.sub.ok_or(Reason::TokenSubject)?;
        UserId::parse(&subject).map_err(|_| Reason::TokenSubject)
    }
}

#[cfg(test)]
mod forged;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_705_314_600;

    fn expected() -> Expected {
        Expected {
            issuer: Some("lokroom".into()),
            audience: Some("webhooks".into()),
            leeway_seconds: 30.0,
            max_lifetime_seconds: 3600.0,
        }
    }

    fn check(claims: &serde_json::Value) -> Result<UserId, Reason> {
        let now = Timestamp::from_timestamp(NOW, 0).unwrap();
        expected().check(serde_json::from_value(claims.clone()).unwrap(), now)
    }

    fn good() -> serde_json::Value {
        serde_json::json!({ "sub": "user_1", "exp": NOW + 60, "iss": "lokroom", "aud": "webhooks" })
    }

    fn with(claim: &str, value: impl Into<serde_json::Value>) -> serde_json::Value {
        let mut claims = good();
        claims[claim] = value.into();
        claims
    }

    #[test]
    fn a_token_within_its_time_for_this_service_is_believed() {
        assert_eq!(check(&good()).unwrap().as_str(), "user_1");
        for claims in [
            with("exp", NOW - 29),
            with("exp", 1_705_314_600.5),
            with("exp", NOW + 3630),
            with("nbf", NOW + 30),
            with("nbf", -1e300),
            with("aud", vec!["other", "webhooks"]),
        ] {
            assert!(check(&claims).is_ok(), "{claims}");
        }
    }

    #[test]
    fn what_claims_lack_or_get_wrong_is_told() {
        for (claims, reason) in [
            (with("exp", NOW - 30), Reason::TokenExpired),
            (with("exp", -1), Reason::TokenExpired),
            (with("exp", i64::MIN), Reason::TokenExpired),
            (with("exp", -1e300), Reason::TokenExpired),
            (with("exp", 1e-300), Reason::TokenExpired),
            (with("exp", serde_json::Value::Null), Reason::TokenWithoutExpiry),
            (with("exp", NOW + 3631), Reason::TokenLifetime),
            (with("exp", u64::MAX), Reason::TokenLifetime),
            (with("exp", 1e300), Reason::TokenLifetime),
            (with("exp", f64::MAX), Reason::TokenLifetime),
            (with("nbf", NOW + 31), Reason::TokenNotYetValid),
            (with("iss", "other"), Reason::TokenIssuer),
            (with("iss", serde_json::Value::Null), Reason::TokenIssuer),
            (with("aud", "other"), Reason::TokenAudience),
            (with("aud", Vec::<String>::new()), Reason::TokenAudience),
            (with("aud", serde_json::Value::Null), Reason::TokenAudience),
            (with("sub", serde_json::Value::Null), Reason::TokenSubject),
            (with("sub", ""), Reason::TokenSubject),
            (with("sub", "a\u{0}b"), Reason::TokenSubject),
            (with("sub", "a\nb"), Reason::TokenSubject),
            (with("sub", "a\u{7f}"), Reason::TokenSubject),
            (with("sub", "a\u{85}"), Reason::TokenSubject),
            (with("sub", "x".repeat(256)), Reason::TokenSubject),
            (with("iss", "lokroom "), Reason::TokenIssuer),
            (with("iss", "Lokroom"), Reason::TokenIssuer),
            (with("aud", vec!["other", "webhooks "]), Reason::TokenAudience),
            (with("aud", ""), Reason::TokenAudience),
        ] {
            assert_eq!(check(&claims), Err(reason), "{claims}");
        }
    }
}
