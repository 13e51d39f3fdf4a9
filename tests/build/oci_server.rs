//! A real registry on the loopback device, images to put into it, and a proxy that
//! loses connections.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Runs a shell's text, which has to succeed, and gives what it printed.
#[track_caller]
pub fn shell(text: &str) -> String {
    let output = Command::new("sh")
        .args(["-ec", text])
        .output()
        .expect("there is a shell");
    assert!(
        output.status.success(),
        "{text}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

fn start(program: &str, arguments: &[&str], port: u16) -> Child {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "{program} does not listen");
        if let Ok(Some(status)) = child.try_wait() {
            panic!("{program} {arguments:?} has ended: {status}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    child
}

/// Who may read from a registry, and how.
pub enum Door {
    /// Everybody.
    Open,
    /// `reader` with `secret`, by basic authentication.
    Login,
    /// The same, by a token of another server's.
    Token,
    /// Everybody, over TLS with a certificate of an authority of its own.
    Tls,
}

/// Debian's docker-registry; ends when it is dropped.
pub struct Registry {
    children: Vec<Child>,
    directory: TempDir,
    port: u16,
    tls: bool,
}

impl Registry {
    pub fn start(door: &Door) -> Registry {
        let directory = tempfile::tempdir().expect("/tmp can be written to");
        let at = directory.path();
        // The certificate's authority is for users to read.
        shell(&format!("chmod 755 {}", at.display()));
        let port = free_port();
        let mut children = Vec::new();
        let mut http = format!("addr: 127.0.0.1:{port}, host: \"\"");
        let mut auth = String::new();
        match door {
            Door::Open => {}
            Door::Login => {
                shell(&format!(
                    "htpasswd -Bbc {}/users reader secret",
                    at.display()
                ));
                auth = format!(
                    "auth: {{htpasswd: {{realm: test, path: {}/users}}}}\n",
                    at.display()
                );
            }
            Door::Tls => {
                certificate(at);
                let at = at.display();
                http.push_str(&format!(
                    ", tls: {{certificate: {at}/server.crt, key: {at}/server.key}}"
                ));
            }
            Door::Token => {
                certificate(at);
                let tokens = free_port();
                fs::write(at.join("tokens.py"), TOKENS).expect("a file can be written");
                let script = at.join("tokens.py").display().to_string();
                let words = [&script, &at.display().to_string(), &tokens.to_string()];
                children.push(start("python3", &words.map(String::as_str), tokens));
                auth = format!(
                    "auth: {{token: {{realm: \"http://127.0.0.1:{tokens}/token\", service: test, \
                     issuer: test, rootcertbundle: {}/server.crt}}}}\n",
                    at.display()
                );
            }
        }
        let configuration = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}/store}}}}\n\
             http: {{{http}}}\n{auth}",
            at.display()
        );
        let file = at.join("config.yml");
        fs::write(&file, configuration).expect("a file can be written");
        let file = file.display().to_string();
        children.push(start("docker-registry", &["serve", &file], port));
        Registry {
            children,
            directory,
            port,
            tls: matches!(door, Door::Tls),
        }
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificate of the authority that vouches for it.
    pub fn authority(&self) -> PathBuf {
        self.directory.path().join("ca.crt")
    }

    /// Copies an image of a layout, with all its platforms, by skopeo.
    pub fn push(&self, layout: &Layout, tag: &str, name: &str) {
        let verify = if self.tls {
            shell(&format!(
                "mkdir -p {1}/trust; cp {0} {1}/trust/ca.crt",
                self.authority().display(),
                self.directory.path().display()
            ));
            format!("--dest-cert-dir={}/trust", self.directory.path().display())
        } else {
            "--dest-tls-verify=false".to_owned()
        };
        shell(&format!(
            "skopeo copy --quiet --all {verify} --dest-creds=reader:secret oci:{}:{tag} docker://{}/{name}",
            layout.path().display(),
            self.host()
        ));
    }

    /// The file that a layer is served from.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let store = self
            .directory
            .path()
            .join("store/docker/registry/v2/blobs/sha256");
        store.join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn certificate(at: &Path) {
    let at = at.display();
    shell(&format!(
        "cd {at}
        exec 2>&1
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority \
            -keyout ca.key -out ca.crt
        openssl req -newkey rsa:2048 -nodes -subj /CN=registry -keyout server.key -out server.csr
        printf 'subjectAltName=IP:127.0.0.1,DNS:localhost\\nbasicConstraints=CA:FALSE\\n' >extensions
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
            -extfile extensions -out server.crt
        chmod 644 ca.crt"
    ));
}

/// A token server as the registry's documentation describes it: it signs what the
/// registry believes, for everybody who may read and for the one who has the login.
const TOKENS: &str = r#"
import base64, http.server, json, subprocess, sys, time, urllib.parse
at, port = sys.argv[1], int(sys.argv[2])
def coded(data):
    return base64.urlsafe_b64encode(data).rstrip(b'=')
pem = open(at + '/server.crt').read()
der = ''.join(line for line in pem.splitlines() if '-----' not in line)
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass
    def do_GET(self):
        login = self.headers.get('Authorization')
        right = 'Basic ' + base64.b64encode(b'reader:secret').decode()
        if login != right:
            self.send_response(401)
            self.end_headers()
            return
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        access = []
        for scope in query.get('scope', []):
            kind, name, actions = scope.split(':')
            access.append({'type': kind, 'name': name, 'actions': actions.split(',')})
        now = int(time.time())
        head = {'typ': 'JWT', 'alg': 'RS256', 'x5c': [der]}
        body = {'iss': 'test', 'sub': 'reader', 'aud': query['service'][0], 'iat': now,
                'nbf': now - 10, 'exp': now + 300, 'jti': str(now), 'access': access}
        text = coded(json.dumps(head).encode()) + b'.' + coded(json.dumps(body).encode())
        signed = subprocess.run(['openssl', 'dgst', '-sha256', '-sign', at + '/server.key'],
                                input=text, stdout=subprocess.PIPE, check=True).stdout
        answer = json.dumps({'token': (text + b'.' + coded(signed)).decode()}).encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler).serve_forever()
"#;

/// A layer as it is stored, and what it is uncompressed.
#[derive(Clone)]
pub struct Layer {
    pub digest: String,
    id: String,
    size: u64,
}

/// Images in the OCI layout, put together here so that they can be wrong.
pub struct Layout {
    directory: TempDir,
    entries: Vec<String>,
}

impl Layout {
    pub fn new() -> Layout {
        let directory = tempfile::tempdir().expect("/tmp can be written to");
        let at = directory.path();
        shell(&format!("chmod 755 {}", at.display()));
        fs::create_dir_all(at.join("blobs/sha256")).expect("a directory can be made");
        fs::write(at.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").expect("written");
        Layout {
            directory,
            entries: Vec::new(),
        }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.path().join("blobs/sha256").join(hex)
    }

    /// Puts a file where its digest says, and returns digest and size.
    fn add(&self, file: &Path) -> (String, u64) {
        let size = fs::metadata(file).expect("it is there").len();
        let hex = shell(&format!("sha256sum <{} | cut -d' ' -f1", file.display()));
        fs::rename(file, self.path().join("blobs/sha256").join(&hex)).expect("it can be moved");
        (format!("sha256:{hex}"), size)
    }

    fn add_text(&self, text: &str) -> (String, u64) {
        let file = self.path().join("new");
        fs::write(&file, text).expect("a file can be written");
        self.add(&file)
    }

    /// A layer: the tar archive that the text of a shell makes as `$1`, in a
    /// directory of its own, compressed by `with` (`cat`, `gzip`, …).
    pub fn layer(&self, with: &str, text: &str) -> Layer {
        let work = tempfile::tempdir().expect("/tmp can be written to");
        let (tar, packed) = (self.path().join("tar"), self.path().join("packed"));
        let archive = tar.display();
        shell(&format!(
            "cd {}; set -- {archive}\n{text}\n{with} <{archive} >{}",
            work.path().display(),
            packed.display()
        ));
        let id = format!(
            "sha256:{}",
            shell(&format!("sha256sum <{archive} | cut -d' ' -f1"))
        );
        fs::remove_file(&tar).expect("it can be removed");
        let (digest, size) = self.add(&packed);
        Layer { digest, id, size }
    }

    /// A layer with a busybox root.
    pub fn base(&self, with: &str) -> Layer {
        let root = crate::ground::busybox().display();
        self.layer(
            with,
            &format!("tar --numeric-owner --owner=0 --group=0 -C {root} -cf $1 ."),
        )
    }

    /// A manifest of these layers; returns its descriptor.
    pub fn manifest(&self, architecture: &str, config: &str, layers: &[Layer]) -> String {
        let list =
            |of: &dyn Fn(&Layer) -> String| layers.iter().map(of).collect::<Vec<_>>().join(",");
        let ids = list(&|layer| format!("\"{}\"", layer.id));
        let config = format!(
            "{{\"architecture\":\"{architecture}\",\"os\":\"linux\",\"config\":{config},\
             \"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[{ids}]}}}}"
        );
        let (digest, size) = self.add_text(&config);
        let descriptors = list(&|layer| {
            format!(
                "{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"{}\",\"size\":{}}}",
                layer.digest, layer.size
            )
        });
        let (digest, size) = self.add_text(&format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\
             \"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\
             \"digest\":\"{digest}\",\"size\":{size}}},\"layers\":[{descriptors}]}}"
        ));
        format!("\"mediaType\":\"{MANIFEST}\",\"digest\":\"{digest}\",\"size\":{size}")
    }

    /// Gives a descriptor a tag.
    pub fn tag(&mut self, tag: &str, descriptor: &str) {
        self.entries.push(format!(
            "{{{descriptor},\"annotations\":{{\"org.opencontainers.image.ref.name\":\"{tag}\"}}}}"
        ));
        let all = self.entries.join(",");
        fs::write(
            self.path().join("index.json"),
            format!("{{\"schemaVersion\":2,\"manifests\":[{all}]}}"),
        )
        .expect("a file can be written");
    }

    /// An image of these layers for this machine, with a tag.
    pub fn image(&mut self, tag: &str, config: &str, layers: &[Layer]) {
        let manifest = self.manifest(this_architecture(), config, layers);
        self.tag(tag, &manifest);
    }

    /// An image for several architectures, with a tag.
    pub fn index(&mut self, tag: &str, images: &[(&str, String)]) {
        let list: Vec<_> = images
            .iter()
            .map(|(architecture, descriptor)| {
                format!("{{{descriptor},\"platform\":{{\"os\":\"linux\",\"architecture\":\"{architecture}\"}}}}")
            })
            .collect();
        let kind = "application/vnd.oci.image.index.v1+json";
        let (digest, size) = self.add_text(&format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"manifests\":[{}]}}",
            list.join(",")
        ));
        self.tag(
            tag,
            &format!("\"mediaType\":\"{kind}\",\"digest\":\"{digest}\",\"size\":{size}"),
        );
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Go's name for it.
pub fn this_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What a [`Proxy`] does to connections that carry a layer.
#[derive(Clone, Copy)]
pub enum Mood {
    /// Nothing.
    Honest,
    /// Cuts them after so many bytes.
    Cuts(u64),
    /// Goes silent after so many bytes.
    Stalls(u64),
}

/// Passes on what a registry answers, and remembers what it was asked.
pub struct Proxy {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn before(registry: &Registry, mood: Mood) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let ended = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (end, log, port) = (Arc::clone(&ended), Arc::clone(&requests), registry.port);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), log, end) = (stream, Arc::clone(&log), Arc::clone(&end)) else {
                    continue;
                };
                // A client that goes away is no failure of the proxy's.
                thread::spawn(move || drop(pass(&stream, port, mood, &log, &end)));
            }
        });
        Proxy {
            address,
            ended,
            requests,
        }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The heads of all requests so far, in lower case.
    pub fn requests(&self) -> Vec<String> {
        self.requests
            .lock()
            .expect("no thread has panicked")
            .clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // So that it sees it.
        drop(TcpStream::connect(self.address));
    }
}

/// Passes one request on, over a connection that is closed after it.
fn pass(
    mut client: &TcpStream,
    port: u16,
    mood: Mood,
    log: &Mutex<Vec<String>>,
    end: &AtomicBool,
) -> std::io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(client);
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        // A TLS greeting is no request.
        if head.is_empty() && !line.starts_with("GET ") {
            return Ok(());
        }
        if line == "\r\n" {
            break;
        }
        if !line.to_ascii_lowercase().starts_with("connection:") {
            head.push_str(&line);
        }
    }
    log.lock()
        .expect("no thread has panicked")
        .push(head.to_ascii_lowercase());
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    write!(server, "{head}Connection: close\r\n\r\n")?;
    let left = match mood {
        Mood::Cuts(bytes) | Mood::Stalls(bytes) if head.contains("/blobs/") => bytes,
        _ => u64::MAX,
    };
    let left = AtomicU64::new(left);
    let mut buffer = [0; 16384];
    loop {
        let length = server.read(&mut buffer)?;
        let most = left.load(Ordering::Relaxed);
        let passed = usize::try_from(most).unwrap_or(usize::MAX).min(length);
        client.write_all(&buffer[..passed])?;
        left.fetch_sub(passed as u64, Ordering::Relaxed);
        if length == 0 {
            return Ok(());
        }
        if left.load(Ordering::Relaxed) == 0 {
            while matches!(mood, Mood::Stalls(_)) && !end.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
            }
            return Ok(());
        }
    }
}
