//! Notifications of changed webhooks.

use std::sync::Arc;
use std::time::Duration;

use diesel::sql_query;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use domain::UserId;
use futures_util::StreamExt as _;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::pool::{Connector, Store};

/// How often a silent connection is asked whether it still lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// The wait before connecting again.
const RECONNECT: Duration = Duration::from_millis(500);

/// Something that dispatchers remember may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A webhook of this user was created, changed or deleted.
    Of(UserId),
    /// Notifications may have been missed: everything may have changed.
    Everything,
}

/// Tells of changes to webhooks, over a connection of its own that comes back by itself.
pub struct ChangeListener {
    connector: Arc<Connector>,
    connection: Option<AsyncPgConnection>,
    reported_lost: bool,
}

impl Store {
    /// Listens for changes to webhooks.
    pub fn listener(&self) -> ChangeListener {
        ChangeListener { connector: self.connector.clone(), connection: None, reported_lost: false }
    }
}

impl ChangeListener {
    /// The next change. Before the first, and after every loss of the connection, it is
    /// [`Change::Everything`], given once listening works again.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Change {
        loop {
            let Some(connection) = &mut self.connection else {
                match self.listen().await {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.reported_lost = false;
                        info!("listening for changes to webhooks");
                        return Change::Everything;
                    }
                    Err(reason) => {
                        self.report_lost(&reason);
                        sleep(RECONNECT).await;
                        continue;
                    }
                }
            };
            match next_change(connection).await {
                Ok(Some(change)) => return change,
                Ok(None) => {}
                Err(reason) => {
                    self.connection = None;
                    self.report_lost(&reason);
                }
            }
        }
    }

    async fn listen(&self) -> Result<AsyncPgConnection, String> {
        let mut connection = self.connector.connect().await.map_err(|error| error.to_string())?;
        let listening = sql_query("LISTEN lokroom_webhooks").execute(&mut connection).await;
        listening.map_err(|error| error.to_string())?;
        Ok(connection)
    }

    fn report_lost(&mut self, reason: &str) {
        if !self.reported_lost {
            warn!(reason, "not listening for changes to webhooks; trying again");
            self.reported_lost = true;
        }
    }
}

/// What the next notification tells; `None` if there was none for a while and the connection lives.
async fn next_change(connection: &mut AsyncPgConnection) -> Result<Option<Change>, String> {
    let next = async {
        let mut notifications = std::pin::pin!(connection.notifications_stream());
        notifications.next().await
    };
    match timeout(SIGN_OF_LIFE, next).await {
        Ok(Some(Ok(notification))) => {
            // Whoever is not a user of ours was changed by hand: better to ask again for all than to miss one.
            let user = UserId::parse(&notification.payload);
            Ok(Some(user.map_or(Change::Everything, Change::Of)))
        }
        Ok(Some(Err(error))) => Err(error.to_string()),
        Ok(None) => Err("the connection is gone".to_owned()),
        Err(_) => match timeout(SIGN_OF_LIFE, sql_query("SELECT 1").execute(connection)).await {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {SIGN_OF_LIFE:?}")),
        },
    }
}
