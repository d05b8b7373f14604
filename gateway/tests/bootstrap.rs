//! Bootstrap against a real hub: twice, after somebody changed something, and against a server that is too old.

// A test stops at the first surprise, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::jetstream::{self};
use bus_schemas::limits::Timings;
use bus_schemas::stream;
use gateway::bootstrap::streams::{StreamsArgs, streams};
use support::Hub;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

#[tokio::test]
async fn a_second_run_changes_nothing_and_parts_find_what_they_expect() {
    let hub = Hub::start();
    let made = hub.streams(1).await.unwrap();
    assert!(made.iter().any(|change| change.what == "fact genesis"), "{made:?}");
    assert_eq!(hub.streams(1).await.unwrap(), [], "a second run");

    let gateway = hub.bus("gateway").await;
    let every: Vec<&str> = stream::all(&Timings::default()).iter().map(|spec| spec.name).collect();
    gateway
        .check_streams(&Timings::default(), &every, &[(stream::SUBMIT, stream::INTAKE), (stream::HISTORY, stream::PROJECTION)])
        .await
        .unwrap();
    let scheduler = hub.bus("scheduler").await;
    let jobs = [(stream::JOBS, "high"), (stream::JOBS, "normal"), (stream::JOBS, "low")];
    scheduler.check_streams(&Timings::default(), &[stream::JOBS, "KV_devices"], &jobs).await.unwrap();

    // Other waiting times are another table: bootstrap adjusts, parts refuse until it has.
    let faster = Timings::divided(10);
    let error = scheduler.check_streams(&faster, &[stream::JOBS], &jobs).await.unwrap_err().to_string();
    assert!(error.contains("ack_wait is 30s instead of 3s") && error.contains("bootstrap streams"), "{error}");
    assert_eq!(hub.streams(10).await.unwrap().len(), 5);
    scheduler.check_streams(&faster, &[stream::JOBS], &jobs).await.unwrap();
}

#[tokio::test]
async fn what_was_narrowed_is_widened_and_what_was_widened_stays() {
    let hub = Hub::with_streams().await;
    let bootstrap = jetstream::new(hub.bus("bootstrap").await.client);
    let change = |name: &'static str, how: fn(&mut Config)| {
        let bootstrap = bootstrap.clone();
        async move {
            let mut config = bootstrap.get_stream(name).await.unwrap().cached_info().config.clone();
            how(&mut config);
            bootstrap.update_stream(config).await.unwrap();
        }
    };
    change("LEDGER", |config| config.max_messages = 5).await;
    change("EVENTS", |config| config.max_bytes = 1000).await;
    change("HISTORY", |config| config.max_age = Duration::ZERO).await;
    let changes: Vec<String> = hub.streams(1).await.unwrap().into_iter().map(|change| format!("{}: {}", change.what, change.how)).collect();
    assert_eq!(changes, ["stream EVENTS: max_bytes 1000 -> 1073741824", "stream LEDGER: max_msgs 5 -> -1"]);
    assert_eq!(hub.streams(1).await.unwrap(), []);
}

#[tokio::test]
async fn what_nobody_can_have_meant_is_refused_and_left_alone() {
    let hub = Hub::with_streams().await;
    let bootstrap = jetstream::new(hub.bus("bootstrap").await.client);
    let mut config = bootstrap.get_stream("JOBS").await.unwrap().cached_info().config.clone();
    bootstrap.delete_stream("JOBS").await.unwrap();
    config.retention = RetentionPolicy::Limits;
    config.subjects = vec!["mesh.v1.job.high.*".into()];
    bootstrap.create_stream(config.clone()).await.unwrap();
    let error = hub.streams(1).await.unwrap_err().to_string();
    for part in
        ["stream JOBS", "retention is Limits instead of WorkQueue", "subjects is [\"mesh.v1.job.high.*\"] instead of [\"mesh.v1.job.*.*\"]"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(bootstrap.get_stream("JOBS").await.unwrap().cached_info().config.retention, RetentionPolicy::Limits);
    let error = hub.bus("scheduler").await.check_streams(&Timings::default(), &["JOBS"], &[]).await.unwrap_err().to_string();
    assert!(error.contains("retention"), "{error}");
}

#[tokio::test]
async fn another_networks_ledger_is_refused() {
    let (hub, other) = (Hub::with_streams().await, Hub::start());
    // The same hub, but the folder says that it is another network.
    for file in ["network.json", "keys/ledger.key", "keys/network.key"] {
        std::fs::copy(other.dir.root().join(file), hub.dir.root().join(file)).unwrap();
    }
    let error = format!("{:#}", hub.streams(1).await.unwrap_err());
    assert!(error.contains("M0603") && error.contains("no ledger key"), "{error}");
}

#[tokio::test]
async fn an_old_server_is_refused_in_one_sentence() {
    let hub = Hub::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let info = r#"INFO {"server_id":"X","server_name":"x","version":"2.9.10","go":"go1","host":"127.0.0.1","port":1,"headers":true,"max_payload":1048576,"proto":1,"nonce":"abc"}"#;
            socket.write_all(format!("{info}\r\n").as_bytes()).await.unwrap();
            tokio::spawn(async move {
                let (read, mut write) = socket.split();
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if line.starts_with("PING") {
                        write.write_all(b"PONG\r\n").await.unwrap();
                    }
                }
            });
        }
    });
    let args = StreamsArgs { nats_url: format!("nats://{address}"), grant_mana: None, ..hub.streams_args(1) };
    let error = streams(&args).await.unwrap_err().to_string();
    assert!(error.starts_with("error[M0207]") && error.contains("2.9.10") && !error.contains('\n'), "{error}");
    server.abort();
}

#[tokio::test]
async fn no_hub_is_an_error_that_names_the_address() {
    let hub = Hub::start();
    let args = StreamsArgs { nats_url: "nats://127.0.0.1:1".into(), wait: Duration::from_millis(200), ..hub.streams_args(1) };
    let error = format!("{:#}", streams(&args).await.unwrap_err());
    assert!(error.contains("nats://127.0.0.1:1"), "{error}");
}
