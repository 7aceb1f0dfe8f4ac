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

/// How often a watch without events checks whether the node stops.
const IDLE_CHECK: Duration = Duration::from_secs(15);

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
    let kind = |name: &String| {
        let unknown = || Error::invalid(format!("unknown type `{name}`")).with_field("types");
        EventKind::of_name(name).ok_or_else(unknown)
    };
    types.iter().map(kind).collect()
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
    let batches = stream::unfold(Some((app, caller, watch)), |state| async {
        let (app, caller, mut watch) = state?;
        let next = tokio::select! {
            next = watch.next(IDLE_CHECK) => next,
            revoked = app.auth.wait_for_revocation(&caller) => Err(revoked),
        };
        let stops = || Error::new(ErrorCode::Unavailable, "the node is stopping; follow another one");
        match next.and_then(|events| events.ok_or_else(stops)) {
            Ok(events) => {
                let events: Vec<_> = events.into_iter().map(render_event).map(Ok).collect();
                Some((stream::iter(events), Some((app, caller, watch))))
            }
            Err(error) => Some((stream::iter(vec![Err(to_status(error))]), None)),
        }
    });
    batches.flatten().boxed()
}
