//! `osproxy.v1.EventService`

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use osproxy_api::{
    ErrorCode,
    grpc::v1::{
        Event, ListEventsRequest, ListEventsResponse, WatchEventsRequest, event_service_server::EventService,
    },
    v1::{DEFAULT_PAGE, MAX_EVENTS},
};
use osproxy_core::{
    App, Caller, Error, Result,
    events::{self, EventKind, EventWatch},
    ops,
};
use osproxy_types::scope::Scope;
use tonic::{Request, Status};

use super::{
    RpcResult, caller, render,
    status::{reply, to_status},
};

/// How often a watch without events sends its position.
const HEARTBEAT: Duration = Duration::from_secs(15);

pub(super) struct Service(pub(super) Arc<App>);

#[tonic::async_trait]
impl EventService for Service {
    type WatchEventsStream = BoxStream<'static, Result<Event, Status>>;

    async fn list_events(&self, request: Request<ListEventsRequest>) -> RpcResult<ListEventsResponse> {
        let result = async {
            let tenant = caller(&request, Scope::Read)?.tenant;
            let ListEventsRequest { after, types, page_size } = request.into_inner();
            let (after, kinds) = (position(after)?, kinds(&types)?);
            let limit = if page_size == 0 { DEFAULT_PAGE } else { page_size.into() };
            if limit > MAX_EVENTS {
                let message = format!("`page_size` must be at most {MAX_EVENTS}");
                return Err(Error::invalid(message).with_field("page_size"));
            }
            let page = ops::list_events::list_events(&self.0.events, &tenant, kinds, after, limit).await?;
            Ok(ListEventsResponse {
                events: page.events.into_iter().map(render_event).collect(),
                next: page.position.unsigned_abs(),
                has_more: page.has_more,
            })
        }
        .await;
        reply(result)
    }

    async fn watch_events(&self, request: Request<WatchEventsRequest>) -> RpcResult<Self::WatchEventsStream> {
        let result = async {
            let caller = caller(&request, Scope::Read)?;
            let WatchEventsRequest { after, types } = request.into_inner();
            let (after, kinds) = (after.map(position).transpose()?, kinds(&types)?);
            let watch = ops::watch_events::watch_events(&self.0.events, &caller.tenant, kinds, after).await?;
            Ok(stream_of(self.0.clone(), caller, watch))
        }
        .await;
        reply(result)
    }
}

fn position(id: u64) -> Result<i64> {
    i64::try_from(id).map_err(|_| Error::invalid("`after` must be the id of an event").with_field("after"))
}

fn kinds(types: &[String]) -> Result<Vec<EventKind>> {
    events::parse_kinds(types.iter().map(String::as_str))
}

fn render_event(event: events::Event) -> Event {
    Event {
        id: event.position.unsigned_abs(),
        r#type: event.kind,
        created_at: Some(render::timestamp(event.created_at)),
        uid: event.uid.map(|uid| uid.to_string()).unwrap_or_default(),
        data: event.payload,
    }
}

fn stream_of(
    app: Arc<App>,
    caller: Caller,
    watch: EventWatch,
) -> BoxStream<'static, std::result::Result<Event, Status>> {
    // One future for the whole stream: it looks at the key only from time to time.
    let revoked = Box::pin(async move { app.auth.wait_for_revocation(&caller).await });
    let first = stream::iter([Ok(position_of(&watch))]);
    let batches = stream::unfold(Some((watch, revoked)), |state| async {
        let (mut watch, mut revoked) = state?;
        let next = tokio::select! {
            biased;
            revoked = &mut revoked => Err(revoked),
            next = watch.next(HEARTBEAT) => next,
        };
        let stops = || Error::new(ErrorCode::Unavailable, "the node is stopping; follow another one");
        match next.and_then(|events| events.ok_or_else(stops)) {
            Ok(events) => {
                let mut events: Vec<_> = events.into_iter().map(render_event).map(Ok).collect();
                if events.is_empty() {
                    events.push(Ok(position_of(&watch)));
                }
                Some((stream::iter(events), Some((watch, revoked))))
            }
            Err(error) => Some((stream::iter(vec![Err(to_status(error))]), None)),
        }
    });
    first.chain(batches.flatten()).boxed()
}

/// A message without a type: the client continues from this position if the call ends.
fn position_of(watch: &EventWatch) -> Event {
    Event { id: watch.position().unsigned_abs(), ..Event::default() }
}
