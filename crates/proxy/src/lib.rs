//! The public proxy: route table, HTTP forwarding, websockets and the REST API of configurable-http-proxy.
