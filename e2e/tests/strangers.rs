//! Who may stop a job: at every door a stranger's cancel is refused by name, as is one of a job that has ended; nothing changes.
//! What schedulers refuse is in `scheduler-worker/tests/survives/refused.rs`.

use std::time::Duration;

use bus::connect::Login;
use bus_schemas::subject;
use e2e::{books, doors};
use serde_json::{Value, json};
use testkit::{Stack, http, until};

#[tokio::test]
async fn nobody_stops_anothers_job_nor_one_that_has_ended() {
    let stack = Stack::start(&["--agents", "2"], &[("MESH_TIME_DIVISOR", "4")]);
    // It waits: nobody has so much memory.
    let waits = json!({"kind": "echo", "text": "mine", "required_resources": {"gpu_mb": 999_999}});
    let (_, job) = doors::post(&stack, &waits.to_string(), Some("mine")).await;
    let id = job["id"].as_str().expect("an id").to_owned();
    let done = doors::http(&stack, &doors::echo("done"), "done").await["id"].as_str().expect("an id").to_owned();
    let auditor = stack.auditor().await;
    let settled = done.parse().expect("a CID");
    until("the settlement", || async { books::replay(&stack, &auditor).await.is_settled(&settled).then_some(()) }).await;
    let shown = async |id: &str| {
        let (_, mut job) = doors::get(&stack, &format!("/jobs/{id}")).await;
        // What is told of the waiting itself goes on.
        for moving in ["waiting", "transitions"] {
            job.as_object_mut().expect("a job").remove(moving);
        }
        job
    };
    let before = (shown(&id).await, shown(&done).await, stack.cli.ok_async(&["credit", "balance"]).await);

    // A device of another member, with all that it has.
    let device = stack.text("/devices/1/id");
    let creds = stack.path("/devices/1/home").join("creds-a.creds");
    let stranger = stack.connect(&stack.text("/nats/url"), Login::Creds(creds), &format!("_INBOX.{device}")).await;
    let ask = json!({ "id": id }).to_string();
    let answer = stranger.client.request(format!("mesh.v1.api.{device}.job.cancel"), ask.clone().into()).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    println!("a stranger, over the service: {} {}", answer["code"], answer["detail"]);
    assert_eq!(answer["code"], "M0501", "{answer}");
    // In the owner's name, and past the door: the server refuses both by name.
    let me = stack.text("/member/id");
    for to in [format!("mesh.v1.api.{me}.job.cancel"), subject::cancel(&id.parse().expect("a CID"))] {
        let answer = stranger
            .client
            .send_request(
                to.clone(),
                bus::async_nats::client::Request::new().payload(ask.clone().into()).timeout(Some(Duration::from_secs(2))),
            )
            .await;
        println!("a stranger, on {to}: {answer:?}");
        assert!(answer.is_err(), "{to}");
    }
    // The owner, past the door: only gateways say what is to be stopped.
    let member = stack.member().await;
    let stored = member.store_once(subject::cancel(&id.parse().expect("a CID")), None, ask.into(), Duration::from_secs(2)).await;
    println!("its member, past the door: {stored:?}");
    assert!(stored.is_err());
    // Over HTTP: nobody, and somebody with another's token.
    let url = stack.api(&format!("/api/v1/jobs/{id}/cancel"));
    for token in [None, Some("Bearer nonsense")] {
        let headers: Vec<(&str, &str)> = token.map(|token| ("authorization", token)).into_iter().collect();
        let (status, answer) = http::send("POST", &url, &headers, "").await;
        assert_eq!((status, answer["code"].is_string()), (401, true), "{answer}");
        println!("without a token of its member, over HTTP: {status} {} {}", answer["code"], answer["detail"]);
    }

    // Of a job that has ended, at every door.
    let (status, answer) = {
        let authorization = format!("Bearer {}", stack.token());
        http::send("POST", &stack.api(&format!("/api/v1/jobs/{done}/cancel")), &[("authorization", &authorization)], "").await
    };
    println!("of a finished job, over HTTP: {status} {answer}");
    assert!((400..500).contains(&status) && answer["code"].is_string(), "{status} {answer}");
    let code = answer["code"].clone();
    let answer = doors::service(&stack, &member, "job.cancel", json!({ "id": done }).to_string(), None).await;
    assert_eq!(answer["code"], code, "{answer}");
    let (exit, answer) = stack.cli.json(&["job", "cancel", &done]);
    assert_eq!((exit != 0, &answer["code"]), (true, &code), "{answer}");

    let after = (shown(&id).await, shown(&done).await, stack.cli.ok_async(&["credit", "balance"]).await);
    assert_eq!(after, before);
    doors::http(&stack, &doors::echo("still here"), "still-here").await;
    // Its member may.
    assert!(stack.cli.json(&["job", "cancel", &id]).0 == 0);
    until("its end", || async { (doors::get(&stack, &format!("/jobs/{id}")).await.1["state"] == "Cancelled").then_some(()) }).await;
    assert_eq!(stack.cli.ok_async(&["credit", "verify"]).await["ok"], true);
}
