//! How fast bulk parcels get from one session to another, over the real transport on loopback: prints GB/s, and the CPU time
//! of both ends together, which other load on the machine does not change much.
//!
//! `cargo run --release -p migrate-transport --example throughput [GIGABYTES]`

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use migrate_transport::keys::authority::NodeIdentity;
use migrate_transport::keys::generate;
use migrate_transport::link::{PeerAddress, Transport};
use migrate_transport::memory::Network;
use migrate_transport::parcel::Parcel;
use migrate_transport::session::{Acceptor, Session, SessionId, Timing};
use migrate_transport::zmq::{Config, ZmqTransport};
use nix::sys::resource::{UsageWho, getrusage};

const BULK: usize = 1 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let gigabytes: f64 = std::env::args().nth(1).map_or(Ok(4.0), |text| text.parse())?;
    let parcels = (gigabytes * 1e9 / BULK as f64) as usize;

    let network = Network::new();
    let (here, there) = (network.node("here".parse()?), network.node("there".parse()?));
    let address = PeerAddress { node: "there".parse()?, address: String::new() };
    let speed = measure(here, there, address, parcels).await?;
    println!("session over memory:         {speed}");

    let directory = tempfile::tempdir()?;
    let key = generate()?;
    let start = async |name: &str| -> Result<Arc<ZmqTransport>> {
        let identity = NodeIdentity::issue(&key, name.parse()?)?;
        let config = Config { identity, run: directory.path().join(name), listen: "127.0.0.1:0".parse()? };
        Ok(ZmqTransport::start(config).await?)
    };
    let (here, there) = (start("here").await?, start("there").await?);
    let address = PeerAddress { node: "there".parse()?, address: there.local_addr().to_string() };
    let speed = measure(here, there, address, parcels).await?;
    println!("session over ZeroMQ and TLS: {speed}");
    Ok(())
}

async fn measure(
    here: Arc<dyn Transport>,
    there: Arc<dyn Transport>,
    address: PeerAddress,
    parcels: usize,
) -> Result<String> {
    let mut acceptor = Acceptor::start(there, Timing::default());
    let receiving = tokio::spawn(async move {
        let mut session = acceptor.next().await.context("no session came")?;
        let mut bytes = 0;
        while let Some(parcel) = session.recv().await? {
            bytes += parcel.bulk.len();
        }
        session.close().await?;
        Ok::<usize, anyhow::Error>(bytes)
    });
    let session = Session::open(here, address, SessionId([1; 16]), 0, Timing::default()).await?;
    let bulk: Bytes = (0..BULK).map(|at| at as u8).collect::<Vec<u8>>().into();
    let header = Bytes::from_static(&[7; 32]);
    let (started, cpu_before) = (Instant::now(), cpu_seconds()?);
    for _ in 0..parcels {
        session.send(Parcel { header: header.clone(), bulk: bulk.clone() }).await?;
    }
    session.close().await?;
    let (elapsed, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu_before);
    ensure!(receiving.await?? == parcels * BULK, "bytes are missing");
    let gigabytes = (parcels * BULK) as f64 / 1e9;
    Ok(format!("{:.2} GB/s, {:.2} CPU seconds per GB for both ends", gigabytes / elapsed, cpu / gigabytes))
}

/// What this process has used, in user and kernel: unlike the speed it hardly depends on what else the machine does.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
