//! What a newcomer is told. Starts nothing.

use std::net::SocketAddr;

use super::Servers;

impl Servers {
    /// Tells a newcomer what to do next, where the service listens on `bind`, and serves
    /// operators on `operations`.
    #[expect(clippy::print_stdout, reason = "what a newcomer starts for")]
    pub fn greet(&self, bind: SocketAddr, operations: SocketAddr) {
        println!(
            r#"
paystream is running on http://{bind}

  Pay:     curl -X POST http://{bind}/api/v1/payments \
             -H 'Content-Type: application/json' \
             -d '{{"customer_id":"GIG00001","payment_status":"COMPLETE","transaction_amount":"10000","transaction_date":"2025-11-07 14:54:16","transaction_reference":"VPAY25110713542114478761522000"}}'
  Look:    curl http://{bind}/api/v1/customers/GIG00001/balance
  Watch:   http://{operations}/console
  Docs:    http://{bind}/docs
  Load:    make load
  Audit:   make audit

  Redis:      127.0.0.1:{}  (data in {})
  PostgreSQL: 127.0.0.1:{}  (data in {})
  Passwords:  {}

Ctrl-C stops everything; the next start finds the data again.
"#,
            self.redis.port(),
            self.redis.data_directory().display(),
            self.postgres.port(),
            self.postgres.data_directory().display(),
            self.redis.place.directory.join(super::ADDRESSES_FILE).display(),
        );
    }
}
