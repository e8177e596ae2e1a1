//! The server's half: it sends the requests and counts the spans.
use crate::abi::{Outcome, TrHeader, TrHost, TrText};
use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use std::fmt;
use std::sync::Arc;

/// The callbacks until their release.
pub struct Host(TrHost);

// shim.h: called on any thread.
unsafe impl Send for Host {}
unsafe impl Sync for Host {}

impl Host {
    pub fn new(host: TrHost) -> Self {
        Host(host)
    }

    pub fn count(&self, outcome: Outcome, num_spans: usize) {
        (self.0.count)(self.0.context, outcome as i32, num_spans);
    }

    fn post(&self, request: &Request<Bytes>) -> i32 {
        let headers: Vec<TrHeader> = request
            .headers()
            .iter()
            .map(|(name, value)| TrHeader {
                name: TrText::of(name.as_str().as_bytes()),
                value: TrText::of(value.as_bytes()),
            })
            .collect();
        let body = request.body();
        (self.0.post)(
            self.0.context,
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        (self.0.release)(self.0.context);
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// The exporter's way to the collector.
#[derive(Debug)]
pub struct HostClient(pub Arc<Host>);

#[async_trait]
impl HttpClient for HostClient {
    /// Blocks its thread, which is the batch processor's own. The answer's body is not looked at.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let status = self.0.post(&request);
        if status == 0 {
            return Err("no answer".into());
        }
        Ok(Response::builder().status(u16::try_from(status)?).body(Bytes::new())?)
    }
}
