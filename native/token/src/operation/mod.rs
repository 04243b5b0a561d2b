//! What is asked of a token, and by whom: requests, keys, answers, and the ports by which answers leave. Data only.

pub(crate) mod batch;
pub mod host;
pub(crate) mod request;
pub(crate) mod task;
