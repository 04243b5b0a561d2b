//! What nobody can be answered.

/// Says on the standard error what nobody can be answered.
pub fn complain(message: &str) {
    eprintln!("pkcs11_pool_chaos: {message}");
}
