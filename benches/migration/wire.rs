//! A plain TCP stream between two nodes of the lab: how fast the link is for somebody who does nothing but send. This program
//! itself is run on the nodes as its two ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::lab::{Lab, run};

const BLOCK: usize = 1 << 20;

/// Sends `bytes` from `from` to `to`, a node and its address; megabytes a second.
pub(crate) fn speed(lab: &Lab, from: &str, to: &str, to_address: &str, bytes: u64) -> Result<f64> {
    let own = std::env::current_exe()?;
    // Any port; the agent's own address is the node's.
    let address: SocketAddr = to_address.parse()?;
    let listen = SocketAddr::new(address.ip(), 0).to_string();
    let mut receiver = on(lab, to, &own, &["receive", &listen]).stdout(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(receiver.stdout.take().context("the receiver has no stdout")?).lines();
    let mut next = || said.next().context("the receiver ended early")?.context("reading from the receiver");
    let sent = next().and_then(|address| run(&mut on(lab, from, &own, &["send", &address, &bytes.to_string()])));
    if sent.is_err() {
        let _ = receiver.kill();
    }
    let speed = sent.and_then(|_| Ok(next()?.parse::<f64>()?));
    receiver.wait()?;
    speed
}

fn on(lab: &Lab, node: &str, program: &Path, words: &[&str]) -> Command {
    let mut command = lab.command();
    command.args(["lab", "exec", node, "--"]).arg(program).args(words).stdin(Stdio::null());
    command
}

/// The receiving end: prints where it listens, then how fast it came.
pub(crate) fn receive(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("{}", listener.local_addr()?);
    let (mut stream, _) = listener.accept()?;
    let begun = Instant::now();
    let (mut block, mut bytes) = (vec![0; BLOCK], 0);
    loop {
        match stream.read(&mut block)? {
            0 => break,
            some => bytes += some,
        }
    }
    if bytes == 0 {
        bail!("nothing came");
    }
    println!("{}", bytes as f64 / 1e6 / begun.elapsed().as_secs_f64());
    Ok(())
}

/// The sending end.
pub(crate) fn send(address: SocketAddr, bytes: u64) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let block = vec![0x5a; BLOCK];
    let mut left = bytes as usize;
    while left > 0 {
        let len = left.min(BLOCK);
        stream.write_all(&block[..len])?;
        left -= len;
    }
    Ok(())
}
