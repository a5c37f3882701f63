//! French or English, as the caller prefers (RFC 9110 §12.5.4).

use actix_web::HttpRequest;
use actix_web::http::header::ACCEPT_LANGUAGE;

/// A language that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// English, unless French is preferred.
    English,
    /// French, the guide's language.
    French,
}

impl Language {
    /// The language tag.
    pub(crate) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::French => "fr",
        }
    }

    /// The language that a request prefers.
    pub(crate) fn of(request: &HttpRequest) -> Self {
        let headers = request.headers().get_all(ACCEPT_LANGUAGE);
        let ranges: Vec<_> = headers.filter_map(|value| value.to_str().ok()).collect();
        Self::preferred(&ranges.join(","))
    }

    /// French if it has a higher weight than English, or the same and stands first.
    fn preferred(accept_language: &str) -> Self {
        let (mut french, mut english, mut other) = (None, None, 0);
        for (position, range) in accept_language.split(',').enumerate() {
            let (tag, weight) = weighted(range);
            let preference = Some(Preference { weight, earlier: usize::MAX - position });
            match tag.split('-').next() {
                Some(tag) if tag.eq_ignore_ascii_case("fr") => french = french.max(preference),
                Some(tag) if tag.eq_ignore_ascii_case("en") => english = english.max(preference),
                Some("*") => other = other.max(weight),
                _ => {}
            }
        }
        let unnamed = Preference { weight: other, earlier: 0 };
        let (french, english) = (french.unwrap_or(unnamed), english.unwrap_or(unnamed));
        if french > english && french.weight > 0 { Self::French } else { Self::English }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    weight: u16,
    earlier: usize,
}

/// A language range and its weight in thousandths; what is not a weight counts as 0.
fn weighted(range: &str) -> (&str, u16) {
    let (tag, parameters) = range.split_once(';').unwrap_or((range, "q=1"));
    let weight = parameters.trim().strip_prefix(['q', 'Q']).and_then(|rest| rest.trim().strip_prefix('='));
    (tag.trim(), weight.and_then(|weight| thousandths(weight.trim())).unwrap_or(0))
}

/// `0.8` is 800.
fn thousandths(weight: &str) -> Option<u16> {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: u16 = whole.parse().ok()?;
    let fraction: u16 = format!("{fraction:0<3}").parse().ok()?;
    let weight = whole.checked_mul(1000)?.checked_add(fraction)?;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn french_is_spoken_where_it_is_preferred() {
        for french in [
            "fr",
            "FR-ca",
            "fr-FR,fr;q=0.9,en;q=0.8",
            "en;q=0.5, fr;q=0.8",
            "de, fr;q=0.3",
            "fr, en",
            "en;q=0, *",
            "fr;q=0.002,en;q=0.001",
        ] {
            assert_eq!(Language::preferred(french), Language::French, "{french}");
        }
    }

    #[test]
    fn english_is_spoken_elsewhere() {
        for english in [
            "",
            "*",
            "de",
            "en",
            "en-GB,fr;q=0.9",
            "en, fr",
            "fr;q=0",
            "fr;q=0, en;q=0",
            "fr;q=0.8, en;q=0.9",
            "fr;q=nonsense",
            "fr;q=2",
            "frisian",
            "fr;q=0.5, *",
        ] {
            assert_eq!(Language::preferred(english), Language::English, "{english}");
        }
    }
}
