//! A web server on the loopback device, of the files in a directory.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Serves until it is dropped.
pub struct Web {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
}

impl Web {
    pub fn serve(directory: &Path) -> Web {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let ended = Arc::new(AtomicBool::new(false));
        let (directory, end) = (directory.to_owned(), Arc::clone(&ended));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), directory) = (stream, directory.clone()) else {
                    continue;
                };
                // A client that goes away is no failure of the server's.
                thread::spawn(move || drop(answer(&stream, &directory)));
            }
        });
        Web { address, ended }
    }

    /// `http://127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // So that it sees it.
        drop(TcpStream::connect(self.address));
    }
}

fn answer(mut stream: &TcpStream, directory: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        let mut words = request.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let path: PathBuf = words
            .next()
            .unwrap_or_default()
            .split('/')
            .filter(|part| !part.is_empty() && *part != "..")
            .collect();
        let file = fs::read(directory.join(path));
        let (status, body) = match &file {
            Ok(bytes) => ("200 OK", bytes.as_slice()),
            Err(_) => ("404 Not Found", b"".as_slice()),
        };
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n"
        )?;
        if method != "HEAD" {
            stream.write_all(body)?;
        }
    }
}
