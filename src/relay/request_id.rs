//! Makes request ids: unique to a process and a request, cheap to make, short enough to read aloud.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderValue, Request};
use rand::TryRng;
use rand::rngs::SysRng;
use tower_http::request_id::{MakeRequestId, RequestId};

/// The ids of one stack: `5f1c09ab33d0e7c2-1`, `-2`, and so on.
#[derive(Clone, Debug)]
pub(super) struct Ids {
    prefix: u64,
    next: Arc<AtomicU64>,
}

impl Default for Ids {
    fn default() -> Self {
        // Without randomness the ids of two processes may meet; nothing depends on their not doing so.
        let prefix = SysRng.try_next_u64().unwrap_or(u64::from(std::process::id()));
        Self { prefix, next: Arc::new(AtomicU64::new(1)) }
    }
}

impl MakeRequestId for Ids {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:016x}-{number}", self.prefix);
        HeaderValue::try_from(id).ok().map(RequestId::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_requests_have_the_same_id() {
        let mut ids = [Ids::default(), Ids::default()];
        let request = Request::new(());
        let mut made: Vec<_> = ids
            .iter_mut()
            .flat_map(|ids| [ids.make_request_id(&request), ids.make_request_id(&request)])
            .map(|id| id.unwrap().into_header_value())
            .collect();
        made.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        made.dedup();
        assert_eq!(made.len(), 4);
    }
}
