//! Whose certificates are trusted.
//!
//! Owns: where they are looked for. Never: trusts a host without one.

use image::Shown;
use launcher::Error;
use ureq::tls::Certificate;

/// The certificates to trust: the system's or `SSL_CERT_FILE`'s, and those that
/// Docker and Podman would take for this host.
pub(super) fn certificates(host: &str) -> Result<Vec<Certificate<'static>>, Error> {
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::info!("certificates: {error}");
    }
    let mut all: Vec<_> = system
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect();
    let home = std::env::var_os("HOME")
        .map(|home| std::path::Path::new(&home).join(".config/containers/certs.d"));
    let directories = ["/etc/docker/certs.d", "/etc/containers/certs.d"];
    for directory in directories.iter().map(std::path::PathBuf::from).chain(home) {
        let Ok(entries) = std::fs::read_dir(directory.join(host)) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_none_or(|end| end != "crt") {
                continue;
            }
            let read = |cause: String| {
                Error::new(format!("read certificate {}", Shown::new(&path)), cause)
                    .hint("it has to be in PEM")
            };
            let text = std::fs::read(&path).map_err(|error| read(error.to_string()))?;
            for item in ureq::tls::parse_pem(&text) {
                match item.map_err(|error| read(error.to_string()))? {
                    ureq::tls::PemItem::Certificate(certificate) => all.push(certificate),
                    _ => continue,
                }
            }
        }
    }
    Ok(all)
}
