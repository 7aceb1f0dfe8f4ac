//! Creation, lookup and change of webhooks.

use osproxy_types::{tenant::Tenant, uid::Uid};
use sea_orm::{
    ActiveEnum, ActiveValue::Set, ColumnTrait, Condition, DatabaseTransaction, DbErr, EntityTrait, ExprTrait,
    PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, UpdateMany, sea_query::Expr,
};

use super::{WebhookDb, WebhookRecord, WebhookState};
use crate::{MetaError, TaskKind, boxed_future, db::entities::webhook, tasks::lease};

/// Key of the task that delivers events.
const DELIVERIES: &str = TaskKind::DeliverWebhooks.name();
/// Maximum length of the reason why a webhook is disabled, in bytes.
const MAX_REASON: usize = 255;

impl WebhookState {
    /// The state's name in the database and in output.
    pub fn name(self) -> String {
        self.to_value()
    }
}

/// Changes of a webhook. `None` keeps a value.
#[derive(Clone, Debug, Default)]
pub struct WebhookChanges {
    /// Where the events are sent.
    pub url: Option<String>,
    /// Which events it gets.
    pub filters: Option<String>,
    /// Whether it gets events.
    pub state: Option<WebhookState>,
}

impl WebhookDb {
    /// Stores a new webhook, unless the tenant has `max` of them already. Returns whether it is
    /// stored.
    #[boxed_future]
    pub async fn create(&self, webhook: WebhookRecord, max: u64) -> Result<bool, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let (tenant, row) = (webhook.tenant.clone(), to_row(webhook.clone()));
                Box::pin(async move {
                    let of_tenant =
                        webhook::Entity::find().filter(webhook::Column::Tenant.eq(tenant.as_str()));
                    if of_tenant.count(transaction).await? >= max {
                        return Ok(false);
                    }
                    webhook::Entity::insert(row).exec_without_returning(transaction).await?;
                    lease::ask_for(transaction, DELIVERIES, now).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// Creates the webhook of the configuration file with the name of `webhook`, or changes tenant,
    /// URL, secret and filters of the existing one. Enables it if it is disabled.
    #[boxed_future]
    pub async fn configure(&self, webhook: WebhookRecord) -> Result<(), MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let webhook = webhook.clone();
                Box::pin(async move {
                    configure(transaction, webhook).await?;
                    lease::ask_for(transaction, DELIVERIES, now).await
                })
            })
            .await
    }

    /// Returns the webhooks of the configuration file.
    #[boxed_future]
    pub async fn configured(&self) -> Result<Vec<WebhookRecord>, MetaError> {
        let configured = webhook::Entity::find().filter(webhook::Column::ConfigName.is_not_null());
        Ok(configured.all(&self.db.reader).await?.into_iter().map(from_row).collect())
    }

    /// Returns a webhook.
    #[boxed_future]
    pub async fn find(&self, id: Uid) -> Result<Option<WebhookRecord>, MetaError> {
        let row = webhook::Entity::find_by_id(id.get()).one(&self.db.reader).await?;
        Ok(row.map(from_row))
    }

    /// Returns up to `limit` webhooks of a tenant, or of all tenants, newest first; with `before`,
    /// those with a lower id.
    #[boxed_future]
    pub async fn list(
        &self,
        tenant: Option<&Tenant>,
        before: Option<Uid>,
        limit: u64,
    ) -> Result<Vec<WebhookRecord>, MetaError> {
        let mut page = webhook::Entity::find().order_by_desc(webhook::Column::Id).limit(limit);
        if let Some(tenant) = tenant {
            page = page.filter(webhook::Column::Tenant.eq(tenant.as_str()));
        }
        if let Some(before) = before {
            page = page.filter(webhook::Column::Id.lt(before.get()));
        }
        Ok(page.all(&self.db.reader).await?.into_iter().map(from_row).collect())
    }

    /// Returns id and version of all enabled webhooks.
    #[boxed_future]
    pub async fn enabled(&self) -> Result<Vec<(Uid, i32)>, MetaError> {
        let enabled = webhook::Entity::find()
            .select_only()
            .columns([webhook::Column::Id, webhook::Column::Version])
            .filter(webhook::Column::State.eq(WebhookState::Enabled));
        let enabled: Vec<(i64, i32)> = enabled.into_tuple().all(&self.db.reader).await?;
        Ok(enabled.into_iter().map(|(id, version)| (Uid::from_db(id), version)).collect())
    }

    /// Changes a webhook, and ends its backoff. Returns `false` if there is no such webhook, or if
    /// its version is not `version`: somebody else has changed it.
    #[boxed_future]
    pub async fn update(&self, id: Uid, version: i32, changes: WebhookChanges) -> Result<bool, MetaError> {
        self.change(id, move |update| {
            let mut update = update.filter(webhook::Column::Version.eq(version));
            if let Some(url) = &changes.url {
                update = update.col_expr(webhook::Column::Url, Expr::value(url.as_str()));
            }
            if let Some(filters) = &changes.filters {
                update = update.col_expr(webhook::Column::Filters, Expr::value(filters.as_str()));
            }
            if let Some(state) = changes.state {
                update = update
                    .col_expr(webhook::Column::State, Expr::value(state))
                    .col_expr(webhook::Column::Reason, Expr::value(None::<String>));
            }
            without_backoff(update)
        })
        .await
    }

    /// Replaces the secret. The secret before also signs until `previous_until`, in milliseconds
    /// since the Unix epoch. There is room for one such secret: if an earlier one still signs, only a
    /// rotation that ends it at once (`previous_until` is not in the future) is possible. Returns
    /// `false` if it is not, or if there is no such webhook.
    #[boxed_future]
    pub async fn rotate_secret(
        &self,
        id: Uid,
        secret: Vec<u8>,
        previous_until: i64,
    ) -> Result<bool, MetaError> {
        let now = self.db.clock.now_ms();
        let has_room = Condition::any()
            .add(webhook::Column::PreviousUntil.is_null())
            .add(webhook::Column::PreviousUntil.lte(now));
        let is_possible =
            if previous_until > now { Condition::all().add(has_room) } else { Condition::all() };
        // MySQL assigns the columns in this order, and would see the new secret in the second.
        self.change(id, move |update| {
            update
                .filter(is_possible.clone())
                .col_expr(webhook::Column::PreviousSecret, Expr::col(webhook::Column::Secret))
                .col_expr(webhook::Column::Secret, Expr::value(secret.clone()))
                .col_expr(webhook::Column::PreviousUntil, Expr::value(previous_until))
        })
        .await
    }

    /// Sets the position of a webhook: the events after it are delivered, again if they were before.
    /// Returns `false` if there is no such webhook.
    #[boxed_future]
    pub async fn set_position(&self, id: Uid, position: i64) -> Result<bool, MetaError> {
        self.change(id, move |update| {
            without_backoff(update)
                .col_expr(webhook::Column::Position, Expr::value(position))
                .col_expr(webhook::Column::Epoch, Expr::col(webhook::Column::Epoch).add(1))
        })
        .await
    }

    /// Disables an enabled webhook. Returns `false` if it is not enabled, or if its version is not
    /// `version`: somebody has changed it.
    #[boxed_future]
    pub async fn disable(&self, id: Uid, version: i32, reason: &str) -> Result<bool, MetaError> {
        let reason = reason.chars().take(MAX_REASON / 4).collect::<String>();
        self.change(id, move |update| {
            update
                .col_expr(webhook::Column::State, Expr::value(WebhookState::Disabled))
                .col_expr(webhook::Column::Reason, Expr::value(reason.as_str()))
                .filter(webhook::Column::State.eq(WebhookState::Enabled))
                .filter(webhook::Column::Version.eq(version))
        })
        .await
    }

    /// Deletes a webhook. Its deliveries remain until they are purged. Returns `false` if there is no
    /// such webhook.
    #[boxed_future]
    pub async fn delete(&self, id: Uid) -> Result<bool, MetaError> {
        self.db
            .write(move |transaction| {
                Box::pin(async move {
                    let deleted = webhook::Entity::delete_by_id(id.get()).exec(transaction).await?;
                    Ok(deleted.rows_affected == 1)
                })
            })
            .await
    }

    /// Applies an update to a webhook and raises its version. Returns `false` if no row matches.
    pub(super) async fn change(
        &self,
        id: Uid,
        change: impl Fn(UpdateMany<webhook::Entity>) -> UpdateMany<webhook::Entity> + Send + Sync + 'static,
    ) -> Result<bool, MetaError> {
        let now = self.db.clock.now_ms();
        self.db
            .write(move |transaction| {
                let update = webhook::Entity::update_many()
                    .col_expr(webhook::Column::Version, Expr::col(webhook::Column::Version).add(1))
                    .filter(webhook::Column::Id.eq(id.get()));
                let update = change(update);
                Box::pin(async move {
                    let is_changed = update.exec(transaction).await?.rows_affected == 1;
                    lease::ask_for(transaction, DELIVERIES, now).await?;
                    Ok(is_changed)
                })
            })
            .await
    }
}

/// Makes the next attempt due now.
fn without_backoff(update: UpdateMany<webhook::Entity>) -> UpdateMany<webhook::Entity> {
    update
        .col_expr(webhook::Column::Failures, Expr::value(0))
        .col_expr(webhook::Column::RetryAt, Expr::value(None::<i64>))
}

async fn configure(transaction: &DatabaseTransaction, webhook: WebhookRecord) -> Result<(), DbErr> {
    let name = webhook::Column::ConfigName.eq(webhook.config_name.clone());
    let Some(existing) = webhook::Entity::find().filter(name).one(transaction).await? else {
        let row = to_row(webhook);
        return webhook::Entity::insert(row).exec_without_returning(transaction).await.map(drop);
    };
    let is_same = existing.tenant == webhook.tenant.as_str()
        && existing.url == webhook.url
        && existing.secret == webhook.secret
        && existing.filters == webhook.filters
        // A start enables an endpoint that was disabled because it answered 410.
        && existing.state == WebhookState::Enabled;
    if is_same {
        return Ok(());
    }
    let update = webhook::Entity::update_many()
        .col_expr(webhook::Column::Version, Expr::col(webhook::Column::Version).add(1))
        .col_expr(webhook::Column::Tenant, Expr::value(webhook.tenant.as_str()))
        .col_expr(webhook::Column::Url, Expr::value(webhook.url))
        .col_expr(webhook::Column::Secret, Expr::value(webhook.secret))
        .col_expr(webhook::Column::Filters, Expr::value(webhook.filters))
        .col_expr(webhook::Column::State, Expr::value(WebhookState::Enabled))
        .col_expr(webhook::Column::Reason, Expr::value(None::<String>))
        .filter(Condition::all().add(webhook::Column::Id.eq(existing.id)));
    without_backoff(update).exec(transaction).await.map(drop)
}

fn to_row(webhook: WebhookRecord) -> webhook::ActiveModel {
    let (previous_secret, previous_until) = webhook.previous_secret.unzip();
    webhook::ActiveModel {
        id: Set(webhook.id.get()),
        tenant: Set(webhook.tenant.to_string()),
        config_name: Set(webhook.config_name),
        url: Set(webhook.url),
        secret: Set(webhook.secret),
        previous_secret: Set(previous_secret),
        previous_until: Set(previous_until),
        filters: Set(webhook.filters),
        state: Set(webhook.state),
        reason: Set(webhook.reason),
        position: Set(webhook.position),
        epoch: Set(webhook.epoch),
        version: Set(webhook.version),
        failures: Set(webhook.failures.cast_signed()),
        retry_at: Set(webhook.retry_at),
        created_at: Set(webhook.created_at),
    }
}

fn from_row(row: webhook::Model) -> WebhookRecord {
    WebhookRecord {
        id: Uid::from_db(row.id),
        tenant: Tenant::from_db(&row.tenant),
        config_name: row.config_name,
        url: row.url,
        secret: row.secret,
        previous_secret: row.previous_secret.zip(row.previous_until),
        filters: row.filters,
        state: row.state,
        reason: row.reason,
        position: row.position,
        epoch: row.epoch,
        version: row.version,
        failures: row.failures.cast_unsigned(),
        retry_at: row.retry_at,
        created_at: row.created_at,
    }
}
