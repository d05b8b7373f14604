//! The main path, on real servers: one job by every door, the same key twice, the hub away, and why a device was chosen.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bus::connect::Login;
use bus_schemas::limits::tier_rate;
use bus_schemas::network::Invite;
use bus_schemas::receipt::Receipt;
use bus_schemas::{JobId, Proof, Verifier};
use e2e::{books, doors};
use serde_json::{Value, json};
use testkit::{Stack, proc, until};

fn job_id(view: &Value) -> JobId {
    view["id"].as_str().expect("an id").parse().expect("a CID")
}

#[tokio::test]
async fn the_main_path() {
    let mut stack = Stack::start(&["--agents", "2"], &[]);
    let member = stack.member().await;
    five_doors_one_result(&stack, &member).await;
    assert!(!stack.cache().join("Microsoft").exists(), "the runtime of the models keeps nothing for its makers");
    the_same_key_is_the_same_job(&stack, &member).await;
    explain_names_every_device(&stack).await;
    a_long_job_has_its_reason_while_it_runs(&stack).await;
    credentials_end_where_they_should(&stack, &member).await;
    a_large_result_is_a_blob(&stack).await;
    the_books_balance(&stack).await;
    the_hub_may_be_away(&stack).await;
    the_ledger_may_be_away(&stack).await;
    a_second_terminal_joins(&stack).await;
    let took = stack.stop();
    assert!(took < Duration::from_secs(10), "stopping took {took:?}");
    for process in stack.ready["processes"].as_array().expect("processes") {
        let pid = u32::try_from(process["pid"].as_u64().expect("a pid")).expect("a pid");
        assert!(!proc::runs(pid), "{process} still runs");
    }
}

async fn five_doors_one_result(stack: &Stack, member: &bus::Bus) {
    let job = json!({"kind": "embed", "text": ["the same words", "by every door"]});
    let by_cli = stack.cli.ok_async(&["job", "run", "embed", "--text", "the same words", "--text", "by every door"]).await;
    let by_http = doors::http(stack, &job, "five-http").await;
    let submitted = doors::service(stack, member, "job.submit", job.to_string(), Some("five-service")).await;
    let by_service = doors::result_of(stack, submitted["id"].as_str().unwrap_or_else(|| panic!("{submitted}"))).await;
    let by_hub = doors::publish(stack, member, &job.to_string(), "five-hub").await;
    let local = stack.local(0).await;
    let by_device = doors::local(&local, &job.to_string(), "five-device").await;

    let views = [by_cli, by_http, by_service, by_hub, by_device];
    let first = doors::vectors(stack, &views[0]).await;
    assert_eq!(first.len(), 2);
    assert_eq!(first[0].len(), 384);
    let auditor = stack.auditor().await;
    let ids: Vec<JobId> = views.iter().map(job_id).collect();
    until("five settlements", || async {
        let replayed = books::replay(stack, &auditor).await;
        ids.iter().all(|id| replayed.is_settled(id)).then_some(())
    })
    .await;
    let replayed = books::replay(stack, &auditor).await;
    for (view, id) in views.iter().zip(&ids) {
        assert_eq!(view["state"], "Completed");
        for (vector, reference) in doors::vectors(stack, view).await.iter().zip(&first) {
            assert!(doors::cosine(vector, reference) >= 0.9999);
        }
        assert_eq!(replayed.settlements(id), 1, "{id} is settled once");
        // The signed carrier in the answer stands by itself, whoever asks.
        let proof =
            data_encoding::BASE64URL_NOPAD.decode(view["receipt"]["proof"].as_str().expect("a proof").as_bytes()).expect("base64url");
        let receipt = Proof::decode(&proof).expect("a proof").verify::<Receipt>(&mut Verifier::default()).expect("a valid receipt");
        assert_eq!((receipt.job, receipt.by().to_string().as_str()), (*id, view["receipt"]["did"].as_str().expect("a did")));
    }
    let verified = stack.cli.ok_async(&["job", "receipt", "--verify", &ids[0].to_string()]).await;
    assert_eq!(verified["ok"], true, "{verified}");
}

async fn the_same_key_is_the_same_job(stack: &Stack, member: &bus::Bus) {
    let (a, b) = (doors::echo("a").to_string(), doors::echo("b").to_string());
    let (status, first) = doors::post(stack, &a, Some("twice")).await;
    assert_eq!(status, 202, "{first}");
    let (status, again) = doors::post(stack, &a, Some("twice")).await;
    assert!(matches!(status, 200 | 202), "{again}");
    assert_eq!(first["id"], again["id"]);
    let (status, other) = doors::post(stack, &b, Some("twice")).await;
    assert_eq!((status, &other["code"]), (409, &json!("M0502")), "{other}");
    let other = doors::service(stack, member, "job.submit", b.clone(), Some("twice")).await;
    assert_eq!(other["code"], "M0502", "{other}");

    // The same on the submit subject: another body is a Rejected record with the same code.
    doors::store(stack, member, b, Some("twice")).await;
    let rejected = until("the Rejected record", || async {
        let (_, list) = doors::get(stack, "/jobs?state=Rejected").await;
        list["jobs"].as_array()?.iter().find(|job| job["key"] == "twice" && job["error"]["code"] == "M0502").cloned()
    })
    .await;
    assert_ne!(rejected["id"], first["id"]);

    // Another member's same key is another job.
    let local = stack.local(0).await;
    let others = doors::local(&local, &a, "twice").await;
    assert_ne!(others["id"], first["id"]);
    doors::result_of(stack, first["id"].as_str().expect("an id")).await;
}

async fn explain_names_every_device(stack: &Stack) {
    let done = doors::http(stack, &doors::echo("explain me"), "explain-1").await;
    let id = done["id"].as_str().expect("an id");
    let devices: Vec<Value> = stack.ready["devices"].as_array().expect("devices").iter().map(|device| device["id"].clone()).collect();
    let explained = until("the explanation", || async {
        let (status, explained) = doors::get(stack, &format!("/jobs/{id}/explain")).await;
        (status == 200 && !explained["decisions"].as_array()?.is_empty()).then_some(explained)
    })
    .await;
    let considered: Vec<&Value> =
        explained["decisions"][0]["considered"].as_array().expect("devices").iter().map(|c| &c["device"]).collect();
    assert!(devices.iter().all(|device| considered.contains(&device)), "{explained}");
    assert!(!explained["decisions"][0]["why"].as_str().expect("why").is_empty());

    // Told within a second of submission: nothing fits, and why.
    let wants_gpu = json!({"kind": "echo", "text": "x", "required_resources": {"gpu_mb": 999_999}});
    let start = Instant::now();
    let (status, answer) = doors::post(stack, &wants_gpu.to_string(), Some("explain-2")).await;
    assert!(start.elapsed() < Duration::from_secs(1), "the answer took {:?}", start.elapsed());
    assert_eq!(status, 202, "{answer}");
    assert!(answer["waiting"].as_str().is_some_and(|why| why.contains("0 of ") && why.contains("GPU memory")), "{answer}");
    let id = answer["id"].as_str().expect("an id");
    let explained = stack.cli.ok_async(&["job", "explain", id]).await;
    let devices_out = explained["devices"].as_array().expect("devices");
    assert_eq!(devices_out.len(), devices.len(), "{explained}");
    assert!(
        devices_out.iter().all(|device| device["verdict"]["out"]["reasons"][0].as_str().is_some_and(|r| r.contains("GPU"))),
        "{explained}"
    );
    let cancelled = stack.cli.ok_async(&["job", "cancel", id]).await;
    assert!(cancelled["state"].is_string(), "{cancelled}");
    until("the cancelled job", || async {
        let (_, job) = doors::get(stack, &format!("/jobs/{id}")).await;
        (job["state"] == "Cancelled").then_some(())
    })
    .await;
}

/// Asked while it goes on, and after its scheduler was killed, a job says why it is where it is; cancelled, its used part has a receipt.
async fn a_long_job_has_its_reason_while_it_runs(stack: &Stack) {
    let texts: Vec<String> =
        (0..3_000).map(|n| format!("sentence {n} of a job that is long enough to be looked at while it runs")).collect();
    let job = json!({"kind": "embed", "text": texts, "cost_mana": 1_000});
    let submit = async |key: &str| {
        let (status, answer) = doors::post(stack, &job.to_string(), Some(key)).await;
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().expect("an id").to_owned()
    };
    let reason = async |id: &str| {
        until("the reason of a job that runs", || async {
            let (_, explained) = doors::get(stack, &format!("/jobs/{id}/explain")).await;
            let runs = explained["state"] == "Executing" && explained["summary"].as_str()?.contains("2 bid");
            (runs && explained["devices"].as_array()?.len() == 2).then_some(explained)
        })
        .await
    };
    let in_state = async |id: &str, state: &str| {
        until(&format!("the job to be {state}"), || async {
            let (_, job) = doors::get(stack, &format!("/jobs/{id}")).await;
            (job["state"] == state).then_some(job)
        })
        .await
    };
    let id = &submit("long-1").await;
    let attempts = reason(id).await["attempts"].clone();
    assert_eq!((&attempts[0]["state"], &attempts[0]["number"], attempts.as_array().map(Vec::len)), (&json!("running"), &json!(1), Some(1)));

    // One that waits behind it on the same device is cancelled before it began: nothing was done, nothing is paid.
    let device = in_state(id, "Executing").await["device"].clone();
    let (_, behind) = doors::post(stack, &json!({"kind": "embed", "text": ["x"], "target": device}).to_string(), Some("behind")).await;
    let behind = behind["id"].as_str().expect("an id");
    in_state(behind, "Assigned").await;
    let waits = until("when it begins", || async {
        let (_, explained) = doors::get(stack, &format!("/jobs/{behind}/explain")).await;
        explained["next"][0].as_str()?.contains("; by its bid it begins at ").then_some(explained)
    })
    .await;
    assert_eq!(waits["attempts"][0]["state"], "waiting", "{waits}");
    assert!(waits["next"][1].as_str().expect("until when").starts_with("given up at "), "its device is named: {waits}");
    stack.cli.ok_async(&["job", "cancel", behind]).await;
    let unpaid = in_state(behind, "Cancelled").await;
    assert_eq!((&unpaid["cost_mmana"], unpaid["error"]["detail"].as_str()), (&json!(0), Some("cancelled before it ran")), "{unpaid}");

    stack.cli.ok_async(&["job", "cancel", id]).await;
    let ended = in_state(id, "Cancelled").await;
    let verified = stack.cli.ok_async(&["job", "receipt", "--verify", id]).await;
    assert_eq!((&verified["ok"], &verified["receipt"]["body"]["outcome"]), (&json!(true), &json!("cancelled")), "{verified}");
    // All of its time is paid, also the first second, during which a device says nothing.
    let (_, all) = doors::get(stack, "/devices").await;
    let tier = all["devices"].as_array().and_then(|all| all.iter().find(|one| one["id"] == device)).and_then(|one| one["tier"].as_u64());
    let rate = tier_rate(u8::try_from(tier.expect("its tier")).expect("a tier"));
    let (cost, claimed) =
        (ended["cost_mmana"].as_i64().expect("a cost"), verified["receipt"]["body"]["claimed_ms"].as_i64().expect("a time"));
    assert!((1..=claimed * rate).contains(&cost) && cost + 700 * rate >= claimed * rate, "{cost} for {claimed} ms at {rate}: {ended}");

    let id = &submit("long-2").await;
    let explained = reason(id).await;
    proc::signal(stack.pids("scheduler")[0], "KILL");
    doors::result_of(stack, id).await;
    let again = stack.cli.ok_async(&["job", "explain", id]).await;
    assert_eq!(again["devices"], explained["devices"]);
    assert_eq!(again["decisions"].as_array().map(Vec::len), Some(1), "each auction once: {again}");
    assert!(again["summary"].as_str().is_some_and(|why| why.starts_with("completed on ") && why.contains("2 bid")), "{again}");
}

/// With device or member credentials: publishing as another, reading another's results, touching a stream, acking a hub
/// message are all refused or without effect.
async fn credentials_end_where_they_should(stack: &Stack, member: &bus::Bus) {
    let victim = stack.text("/devices/1/member");
    let device_home = stack.path("/devices/0/home");
    let device = stack.text("/devices/0/id");
    let creds = ["creds-a.creds", "creds-b.creds"]
        .map(|name| device_home.join(name))
        .into_iter()
        .find(|path| path.exists())
        .expect("device credentials");
    let as_device = stack.connect(&stack.text("/nats/url"), Login::Creds(creds), &format!("_INBOX.{device}")).await;
    let soon = Duration::from_secs(2);
    for (who, bus) in [("member", member), ("device", &as_device)] {
        for subject in [
            format!("mesh.v1.submit.{victim}"),
            format!("mesh.v1.dev.{}.hb", stack.text("/devices/1/id")),
            "mesh.v1.ledger.facts".to_owned(),
            "mesh.v1.job.normal.x".to_owned(),
            "mesh.v1.history.x".to_owned(),
        ] {
            let answer = bus.store_once(subject.clone(), None, "{}".into(), soon).await;
            assert!(answer.is_err(), "{who} published on {subject}: {answer:?}");
        }
        for call in [
            "STREAM.CREATE.EVIL",
            "STREAM.UPDATE.LEDGER",
            "STREAM.DELETE.LEDGER",
            "STREAM.PURGE.JOBS",
            "CONSUMER.CREATE.JOBS.evil",
            "CONSUMER.MSG.NEXT.JOBS.normal",
        ] {
            let answer = bus.ask_bytes(format!("$JS.API.{call}"), r#"{"name":"EVIL","subjects":["evil"]}"#.into(), soon).await;
            assert!(answer.is_err(), "{who} called {call}: {answer:?}");
        }
        // Another's results and everybody's inboxes.
        for subject in [
            format!("mesh.v1.watch.{victim}.*.*"),
            "mesh.v1.watch.*.*.*".to_owned(),
            "_INBOX.>".to_owned(),
            "mesh.v1.offer.*".to_owned(),
            ">".to_owned(),
        ] {
            let mut heard = bus.client.subscribe(subject.clone()).await.expect("the client lets one ask");
            bus.client.flush().await.expect("a flush");
            let local = stack.local(1).await;
            doors::local(
                &local,
                &doors::echo("private").to_string(),
                &format!("private-{who}-{}", bus::keys::random_hex::<4>().expect("random")),
            )
            .await;
            let message = tokio::time::timeout(Duration::from_millis(200), futures::StreamExt::next(&mut heard)).await;
            assert!(!matches!(message, Ok(Some(_))), "{who} heard {message:?} on {subject}");
        }
    }
    // A forged ack takes no job away: it completes all the same.
    let (_, answer) = doors::post(stack, &doors::echo("acked by a stranger").to_string(), Some("forged-ack")).await;
    for bus in [member, &as_device] {
        for sequence in 1..50 {
            let forged = format!("$JS.ACK.JOBS.normal.1.{sequence}.{sequence}.1700000000000000000.0");
            let _ = bus.client.publish(forged, "+ACK".into()).await;
        }
    }
    doors::result_of(stack, answer["id"].as_str().expect("an id")).await;
    // Another member's job does not exist for this one.
    let local = stack.local(1).await;
    let theirs = doors::local(&local, &doors::echo("theirs").to_string(), "theirs").await;
    let (status, answer) = doors::get(stack, &format!("/jobs/{}", theirs["id"].as_str().expect("an id"))).await;
    assert_eq!((status, &answer["code"]), (404, &json!("M0501")));
}

async fn a_large_result_is_a_blob(stack: &Stack) {
    let texts: Vec<String> = (0..40).map(|n| format!("sentence number {n}")).collect();
    let view = doors::http(stack, &json!({"kind": "embed", "text": texts}), "large").await;
    assert_eq!(doors::vectors(stack, &view).await.len(), 40);
    let by_cli = stack.cli.ok_async(&["job", "result", view["id"].as_str().expect("an id")]).await;
    assert_eq!(by_cli["result"]["vectors"].as_array().map(Vec::len), Some(40), "the CLI fetches it by itself");
}

async fn the_books_balance(stack: &Stack) {
    let auditor = stack.auditor().await;
    until("no open hold", || async { (books::replay(stack, &auditor).await.open_holds() == 0).then_some(()) }).await;
    let replayed = books::replay(stack, &auditor).await;
    assert_eq!(replayed.books.total(), 0);
    let report = stack.cli.ok_async(&["credit", "verify"]).await;
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["digest"], books::hex(&replayed.books.digest()));
    let balance = stack.cli.ok_async(&["credit", "balance"]).await;
    let available = balance["available_mmana"].as_i64().expect("a balance");
    assert!(available < 1_000_000_000, "credits moved: {balance}");
    let earned = replayed
        .books
        .members()
        .filter(|member| replayed.books.member_balance(member).is_some_and(|balance| balance.available_mmana > 1_000_000_000));
    assert!(earned.count() >= 1, "a device's owner earned something");
}

/// What is acknowledged while no ledger answers is known at once: it can be looked at, and cancelled, and costs nothing then.
async fn the_ledger_may_be_away(stack: &Stack) {
    let before = stack.cli.ok_async(&["credit", "balance"]).await["available_mmana"].clone();
    let ledger = stack.pids("ledger")[0];
    proc::signal(ledger, "STOP");
    let submitted = stack.cli.ok_async(&["job", "submit", "echo", "--text", "kept", "--key", "no ledger"]).await;
    let (id, short) = (submitted["id"].as_str().expect("an id"), submitted["short"].as_str().expect("a short id"));
    for name in [id, short] {
        let shown = stack.cli.ok_async(&["job", "show", name]).await;
        assert_eq!((&shown["id"], &shown["state"], &shown["key"]), (&json!(id), &json!("Submitted"), &json!("no ledger")), "{shown}");
        assert!(shown["waiting"].as_str().expect("why").contains("once the ledger has made its hold"), "{shown}");
    }
    let listed = stack.cli.ok_async(&["job", "ls"]).await;
    assert_eq!(listed["jobs"][0]["id"], json!(id), "it is listed before it is a job: {listed}");
    let explained = stack.cli.ok_async(&["job", "explain", id]).await;
    assert!(explained["summary"].as_str().expect("a summary").contains("once the ledger has made its hold"), "{explained}");
    let (_, refused) = doors::get(stack, &format!("/jobs/{id}/result")).await;
    assert_eq!(refused["code"], "M0504", "it has not finished: {refused}");
    let (status, refused) = doors::get(stack, &format!("/jobs/{}", "bafkreib3nstyox5yalqeqoktvmb5scrowmar2m7vnxeggaugqbdsvpvf4a")).await;
    assert_eq!((status, &refused["code"]), (404, &json!("M0501")), "what nobody submitted is no job");
    stack.cli.ok_async(&["job", "cancel", id]).await;
    proc::signal(ledger, "CONT");
    until("the job to be cancelled", || async { (stack.cli.ok_async(&["job", "show", id]).await["state"] == "Cancelled").then_some(()) })
        .await;
    until("the hold to return", || async { (stack.cli.ok_async(&["credit", "balance"]).await["available_mmana"] == before).then_some(()) })
        .await;
}

async fn the_hub_may_be_away(stack: &Stack) {
    let local = stack.local(0).await;
    let hub = stack.pids("hub")[0];
    let job = followed(stack, hub).await;
    // Acknowledged by the device although nobody else is there; the answer comes when the hub is back.
    let waiting = {
        let local = local.clone();
        tokio::spawn(async move { doors::local(&local, &doors::echo("offline").to_string(), "offline-1").await })
    };
    until("the stored submission", || async {
        let status = local.ask_bytes("mesh.status".into(), "".into(), Duration::from_secs(2)).await.ok()?;
        let status: Value = serde_json::from_slice(&status).ok()?;
        (status["outbox"].as_u64()? >= 1).then_some(())
    })
    .await;
    assert!(!waiting.is_finished());
    proc::signal(hub, "KILL");
    let view = waiting.await.expect("the job runs once the hub is back");
    assert_eq!(view["result"]["text"], "offline");
    stack.cli.ok_async(&["job", "cancel", &job]).await;
    assert!(
        stack.events().iter().any(|event| event["event"] == "restarted" && event["role"] == "hub"),
        "the restart is reported: {:?}",
        stack.events()
    );
}

/// Whoever follows a job is let go at once by Ctrl-C and by the deadline, although the hub leaves every question open.
async fn followed(stack: &Stack, hub: u32) -> String {
    let texts: Vec<String> = (0..1_000).map(|n| format!("sentence {n}")).collect();
    // Too little for anybody: it waits.
    let cheap = json!({"kind": "embed", "text": texts, "cost_mana": "0.001"});
    let (status, answer) = doors::post(stack, &cheap.to_string(), Some("cheap")).await;
    assert_eq!(status, 202, "{answer}");
    let job = answer["id"].as_str().expect("an id").to_owned();
    let follow = |more: &[&str]| {
        let mut command = stack.cli.command(&[&["job", "wait", &job], more].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("mesh starts");
        let mut said = BufReader::new(child.stderr.take().expect("its stderr"));
        let mut line = String::new();
        while !line.contains("waiting") {
            assert!(said.read_line(&mut line).is_ok_and(|bytes| bytes > 0), "it ended: {line}");
        }
        (child, said)
    };
    let (interrupted, late) = (follow(&[]), follow(&["--timeout", "4s"]));
    proc::signal(hub, "STOP");
    // Once the deadline has ended the one, the other's look is on its way, and for 12 s nobody says that it got lost.
    for ((mut child, mut said), signal, within, exit, words) in
        [(late, None, 5, 5, "error["), (interrupted, Some("INT"), 2, 130, "lives on: mesh job wait job_")]
    {
        let start = Instant::now();
        if let Some(signal) = signal {
            proc::signal(child.id(), signal);
        }
        let mut text = String::new();
        said.read_to_string(&mut text).expect("what it says");
        let ended = child.wait().expect("its end");
        assert!(start.elapsed() < Duration::from_secs(within), "it took {:?}: {text}", start.elapsed());
        assert!(ended.code() == Some(exit) && text.contains(words), "{ended}: {text}");
    }
    job
}

async fn a_second_terminal_joins(stack: &Stack) {
    let invite = stack.text("/invite");
    let joined = stack.cli.ok_async(&["init", "--join", &invite, "--name", "guest"]).await;
    assert!(joined["device"]["id"].as_str().is_some_and(|id| id.starts_with("dev_")), "{joined}");
    assert!(joined["member"]["id"].as_str().is_some_and(|id| id.starts_with("mem_")));
    assert!(std::path::Path::new(joined["creds"].as_str().expect("creds")).exists());
    // Once more, with the network at another address: the same device learns it.
    let mut moved = Invite::parse(&invite).expect("an invite");
    moved.url = moved.url.replace("127.0.0.1", "localhost");
    assert!(moved.url.contains("localhost"), "{}", moved.url);
    let again = stack.cli.ok_async(&["init", "--join", &moved.to_line()]).await;
    assert_eq!(again["device"], joined["device"]);
    let device = std::fs::read_to_string(stack.cli.mesh_home.join("device.toml")).expect("device.toml");
    assert!(device.contains(&format!("\"{}\"", moved.url)) && device.contains("\"guest\""), "{device}");
    let mut agent = stack.cli.command(&["start"]).spawn().expect("mesh start");
    until("the guest to be online", || async {
        let (_, list) = doors::get(stack, "/devices").await;
        list["devices"].as_array()?.iter().any(|device| device["id"] == joined["device"]["id"] && device["online"] == true).then_some(())
    })
    .await;
    let target = joined["device"]["id"].as_str().expect("an id");
    let job = json!({"kind": "echo", "text": "to the guest", "target": target});
    let view = doors::http(stack, &job, "to-the-guest").await;
    assert_eq!(view["receipt"]["device"], target);
    let stopped = stack.cli.run(&["stop"]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    let status = tokio::task::spawn_blocking(move || agent.wait()).await.expect("a wait").expect("a status");
    assert!(status.success(), "{status}");
}
