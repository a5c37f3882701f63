//! Query parameters. Unknown ones are ignored, as is usual.

use std::borrow::Cow;
use std::str::FromStr;

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use domain::EventType;
use domain::protocol::DeliveryStatus;
use store::{DeliveryFilter, Page};

use crate::problem::{FieldError, Problem};
use crate::texts::Reason;

const PAGES: (u32, u32) = (1, 1000);
const PAGE_SIZES: (u32, u32) = (1, 100);
const DEFAULT_PAGE_SIZE: u32 = 20;

/// `page` and `pageSize`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageQuery(pub(crate) Page);

/// How many items stand before the page that a query asks for; none if it is not valid, for then nothing is read.
pub(crate) fn items_before(query: &str) -> u32 {
    PageQuery::parse(query)
        .map_or(0, |PageQuery(page)| page.number.saturating_sub(1).saturating_mul(page.size))
}

/// `page`, `pageSize`, `status` and `event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeliveriesQuery {
    /// Which page.
    pub(crate) page: Page,
    /// Which deliveries.
    pub(crate) filter: DeliveryFilter,
}

impl PageQuery {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut parameters = Parameters::parse(query);
        let page = parameters.page();
        parameters.finish(Self(page))
    }
}

impl DeliveriesQuery {
    fn parse(query: &str) -> Result<Self, Problem> {
        let mut parameters = Parameters::parse(query);
        let page = parameters.page();
        let status =
            parameters.get("status", |text| DeliveryStatus::parse(text).ok_or(Reason::UnknownStatus));
        let event =
            parameters.get("event", |text| EventType::from_str(text).map_err(|_| Reason::UnknownEventType));
        parameters.finish(Self { page, filter: DeliveryFilter { status, event } })
    }
}

/// Query parameters and what is wrong with them.
struct Parameters<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    errors: Vec<FieldError>,
}

impl<'a> Parameters<'a> {
    fn parse(query: &'a str) -> Self {
        Self { pairs: form_urlencoded::parse(query.as_bytes()).collect(), errors: Vec::new() }
    }

    fn get<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, Reason>) -> Option<T> {
        let mut values = self.pairs.iter().filter(|(key, _)| key == name);
        let (_, value) = values.next()?;
        let read = if values.next().is_some() { Err(Reason::RepeatedParameter) } else { read(value) };
        match read {
            Ok(value) => Some(value),
            Err(reason) => {
                self.errors.push(FieldError::new(name, reason));
                None
            }
        }
    }

    fn page(&mut self) -> Page {
        let number = self.get("page", |text| whole_number(text, PAGES)).unwrap_or(1);
        let size = self.get("pageSize", |text| whole_number(text, PAGE_SIZES)).unwrap_or(DEFAULT_PAGE_SIZE);
        Page { number, size }
    }

    fn finish<T>(self, value: T) -> Result<T, Problem> {
        if self.errors.is_empty() { Ok(value) } else { Err(Problem::invalid(self.errors)) }
    }
}

fn whole_number(text: &str, (min, max): (u32, u32)) -> Result<u32, Reason> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && (min..=max).contains(number));
    number.ok_or(Reason::NotInRange { min, max })
}

macro_rules! from_query {
    ($query:ty) => {
        impl FromRequest for $query {
            type Error = Problem;
            type Future = std::future::Ready<Result<Self, Problem>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                std::future::ready(Self::parse(request.query_string()))
            }
        }
    };
}

from_query!(PageQuery);
from_query!(DeliveriesQuery);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_defaults_and_bounds() {
        let page = |query| PageQuery::parse(query).map(|PageQuery(page)| (page.number, page.size));
        assert_eq!(page(""), Ok((1, 20)));
        assert_eq!(page("page=1000&pageSize=100&other=x"), Ok((1000, 100)));
        assert_eq!(page("page=007"), Ok((7, 20)));
        for wrong in [
            "page=0",
            "page=1001",
            "page=",
            "page=-1",
            "page=%2B1",
            "page=1.5",
            "page=abc",
            "page=99999999999999999999",
            "pageSize=0",
            "pageSize=101",
            "page=1&page=2",
        ] {
            assert!(page(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_page_passes_over_is_known() {
        let cases = [("", 0), ("page=2", 20), ("page=1000&pageSize=100&status=x", 99_900), ("page=1001", 0)];
        for (query, before) in cases {
            assert_eq!(items_before(query), before, "{query}");
        }
    }

    #[test]
    fn filters_are_checked_and_every_error_is_told() {
        let query = DeliveriesQuery::parse("status=failed&event=booking.created").unwrap();
        assert_eq!(query.filter.status, Some(DeliveryStatus::Failed));
        assert_eq!(query.filter.event, Some(EventType::BookingCreated));

        let errors = ["page", "status", "event"].map(|name| (name, "x"));
        let query: Vec<_> = errors.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let problem = DeliveriesQuery::parse(&query.join("&")).unwrap_err();
        let expected = vec![
            FieldError::new("page", Reason::NotInRange { min: 1, max: 1000 }),
            FieldError::new("status", Reason::UnknownStatus),
            FieldError::new("event", Reason::UnknownEventType),
        ];
        assert_eq!(problem, Problem::invalid(expected));
    }
}
