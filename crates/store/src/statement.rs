//! Statements written as SQL that are prepared once a connection.
//!
//! **Rows of a batch are found one by one, by the primary key**, whatever PostgreSQL believes of a table when it plans:
//! a day that has just begun is empty to it, and stays so for the life of the plan or until it is analysed. Three ways
//! of writing see to that, beside the settings in `pool`:
//!
//! - `CROSS JOIN LATERAL (SELECT … WHERE id = asked.id AND id BETWEEN $first AND $last OFFSET 0)`: `OFFSET 0` keeps the
//!   subquery whole, so that the range cannot be read without the id. The range leaves only the batch's days in
//!   the plan ([`crate::id_range`]).
//! - `id BETWEEN given.id AND given.id` where a table is changed and cannot stand in a subquery: with `=` the planner
//!   might read the table whole and compare every pair.
//! - `status || '' = 'pending'` beside it: of `status = 'pending'` the planner would know that it lies in the small index of
//!   what is pending, which is small only as long as there is no backlog.

use diesel::pg::Pg;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::{QueryResult, RunQueryDsl};

/// A `sql_query` whose text never changes. diesel prepares a `sql_query` anew at every call because it cannot know
/// that; this says so, and the statement is prepared once a connection and found again by its text.
#[derive(Debug, Clone)]
pub(crate) struct Prepared<Q>(pub(crate) Q);

impl<Q: QueryFragment<Pg>> QueryFragment<Pg> for Prepared<Q> {
    fn walk_ast<'b>(&'b self, pass: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        self.0.walk_ast(pass)
    }

    fn is_safe_to_cache_prepared(&self, _backend: &Pg) -> QueryResult<bool> {
        Ok(true)
    }
}

/// Found by its text, not by its type.
impl<Q> QueryId for Prepared<Q> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<Q: Query> Query for Prepared<Q> {
    type SqlType = Q::SqlType;
}

impl<Q, Conn> RunQueryDsl<Conn> for Prepared<Q> {}
