//! `lokctl token`.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde::Serialize;
use service::{Clock, Settings};

use crate::cli::Token;

const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

/// What the management API checks.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<&'a str>,
}

/// Prints a token.
#[expect(clippy::print_stdout, reason = "the token is the command's output")]
pub(crate) fn run(arguments: &Token, settings: &Settings, clock: &Clock) -> anyhow::Result<()> {
    println!("{}", make(arguments, settings, clock)?);
    Ok(())
}

fn make(arguments: &Token, settings: &Settings, clock: &Clock) -> anyhow::Result<String> {
    let secret = settings.auth.hs256_secret.as_ref().context("auth.hs256_secret is not configured")?;
    let now = clock.now().timestamp();
    let claims = Claims {
        sub: arguments.user.as_str(),
        iat: now,
        exp: now + i64::try_from(arguments.ttl.0.as_secs())?,
        iss: settings.auth.issuer.as_deref(),
        aud: settings.auth.audience.as_deref(),
    };
    // RFC 7515 §7.1, and nothing of it but HS256.
    let (header, claims) =
        (URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims)?));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
    let signature = hmac::sign(&key, format!("{header}.{claims}").as_bytes());
    Ok(format!("{header}.{claims}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use domain::UserId;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use service::values::{Secret, Span};

    use super::*;

    #[test]
    fn a_token_holds_the_user_the_times_and_what_is_configured() {
        let mut settings = Settings::default();
        settings.auth.hs256_secret = Some(Secret::new("0123456789abcdef0123456789abcdef"));
        settings.auth.issuer = Some("https://login".to_owned());
        settings.auth.audience = Some("webhooks".to_owned());
        let arguments = Token { user: UserId::parse("user_1").unwrap(), ttl: Span::secs(60) };
        let token = make(&arguments, &settings, &Clock::system()).unwrap();

        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&["https://login"]);
        validation.set_audience(&["webhooks"]);
        let key = DecodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
        let claims = decode::<serde_json::Value>(&token, &key, &validation).unwrap().claims;
        assert_eq!(claims["sub"], "user_1");
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
    }
}
