//! The owner of a device takes it back while it works: the work moves on at once, nobody waits for silence, and nothing is paid twice.

use std::path::PathBuf;
use std::time::Instant;

use e2e::{books, doors};
use serde_json::Value;
use testkit::cli::Cli;
use testkit::{Stack, until};

/// Seconds of work on any machine.
const TEXTS: usize = 600;

#[tokio::test]
async fn what_its_owner_takes_back_is_done_elsewhere() {
    let stack = Stack::start(&["--agents", "2"], &[]);
    let file = stack.folder().join("texts.txt");
    std::fs::write(&file, (0..TEXTS).map(|n| format!("{n}: {}\n", "boats and trees, ".repeat(30))).collect::<String>()).expect("a file");
    let submit =
        || stack.cli.ok(&["job", "submit", "embed", "--file", file.to_str().expect("a path")])["id"].as_str().expect("an id").to_owned();
    let device = async |job: &str, other_than: Option<&str>| {
        until("a device to work on it", async || {
            let (_, seen) = doors::get(&stack, &format!("/jobs/{job}")).await;
            let device = seen["device"].as_str().filter(|_| matches!(seen["state"].as_str(), Some("Assigned" | "Executing")))?;
            (other_than != Some(device)).then(|| device.to_owned())
        })
        .await
    };

    // Paused: it goes to the other one at once, and the pause is told.
    let job = submit();
    let first = device(&job, None).await;
    let owner = owner(&stack, &first);
    let (start, asked_at) = (Instant::now(), bus::hub_time::here_ms());
    let paused = owner.ok(&["pause", "--for", "1h", "--reason", "in use"]);
    assert_eq!((&paused["handed_back"], &paused["paused"]), (&Value::from(1), &Value::from(true)), "{paused}");
    let second = device(&job, Some(&first)).await;
    println!("seen on another device {:?} after the pause", start.elapsed());
    assert_eq!(stack.cli.ok_async(&["job", "wait", &job]).await["state"], "Completed");
    let shown = stack.cli.ok(&["job", "show", &job]);
    let transitions = shown["transitions"].as_array().expect("transitions");
    let again = transitions.iter().rfind(|one| one["to"] == "Assigned").and_then(|one| one["at"].as_u64()).expect("assigned");
    println!("assigned there {} ms after the pause was asked for", again.saturating_sub(asked_at));
    let explained = stack.cli.ok(&["job", "explain", &job]).to_string();
    assert!(explained.contains("its device was paused by its owner"), "{explained}");
    let status = |id: &str| {
        let list = stack.cli.ok(&["node", "ls"]);
        let found = list["devices"].as_array().expect("devices").iter().find(|device| device["id"] == id).cloned().expect("the device");
        found["status"].as_str().expect("a status").to_owned()
    };
    let told = status(&first);
    assert!(told.starts_with("paused by its owner until ") && told.ends_with(": in use"), "{told}");

    // What nobody took in time is tried again later, as one new job however often that is asked.
    let failed = stack.cli.run(&["job", "run", "echo", "--text", "again", "--target", &first, "--max-wait", "1s", "--key", "first try"]);
    assert_eq!(failed.status.code(), Some(4), "{}", String::from_utf8_lossy(&failed.stderr));
    let list = stack.cli.ok(&["job", "ls"]);
    let failed = list["jobs"].as_array().expect("jobs").iter().find(|job| job["key"] == "first try").expect("the job")["short"].clone();
    let failed = failed.as_str().expect("an id");

    // With one paused and the other told to stop, what runs there ends there; nothing new begins.
    let job_2 = submit();
    assert_eq!(device(&job_2, None).await, second);
    let (other, stopping) = (self::owner(&stack, &second), Instant::now());
    let stopped = tokio::task::spawn_blocking(move || other.ok(&["stop"])).await.expect("mesh stop");
    println!("stopped after {:?}: {stopped}", stopping.elapsed());
    let ended = stack.cli.ok_async(&["job", "wait", &job_2]).await;
    assert_eq!((&ended["state"], ended["receipt"]["device"].as_str()), (&Value::from("Completed"), Some(second.as_str())), "{ended}");

    // Resumed, it takes work again, and hands it back where it is stopped now.
    owner.ok(&["resume"]);
    assert!(!status(&first).contains("paused"), "{}", status(&first));
    until("it to be there again", || async { (status(&first) == "idle").then_some(()) }).await;
    let again = stack.cli.ok_async(&["job", "retry", failed, "--wait"]).await;
    assert_eq!((&again["state"], again["receipt"]["device"].as_str()), (&Value::from("Completed"), Some(first.as_str())), "{again}");
    assert_eq!(stack.cli.ok(&["job", "retry", failed])["id"], again["id"]);
    let new = again["id"].as_str().expect("an id");
    assert_eq!(stack.cli.ok(&["job", "show", new])["retry_of"], stack.cli.ok(&["job", "show", failed])["id"]);
    let (code, refused) = stack.cli.json(&["job", "retry", new]);
    assert_eq!((code, &refused["code"]), (4, &Value::from("M0514")), "{refused}");
    let job_3 = submit();
    assert_eq!(device(&job_3, None).await, first);
    owner.ok(&["stop", "--now"]);
    let waits = || async {
        let (_, seen) = doors::get(&stack, &format!("/jobs/{job_3}")).await;
        assert_ne!(seen["state"], "Completed", "it was over before it could be given back");
        (seen["state"] == "Submitted").then_some(())
    };
    until("the job to be given back", waits).await;
    owner.ok(&["start", "--detach"]);
    assert_eq!(stack.cli.ok_async(&["job", "wait", &job_3]).await["state"], "Completed");
    owner.ok(&["stop"]);

    let auditor = stack.auditor().await;
    until("no open hold", || async { (books::replay(&stack, &auditor).await.open_holds() == 0).then_some(()) }).await;
    let replayed = books::replay(&stack, &auditor).await;
    for job in [&job, &job_2, &job_3] {
        assert_eq!(replayed.settlements(&job.parse().expect("a job id")), 1, "{job} is settled once");
    }
}

#[tokio::test]
async fn what_its_owner_does_not_consent_to_goes_elsewhere_and_explain_says_why() {
    let stack = Stack::start(&["--agents", "2"], &[]);
    let ids: Vec<String> =
        stack.ready["devices"].as_array().expect("devices").iter().filter_map(|one| one["id"].as_str().map(str::to_owned)).collect();
    let (a, b) = (owner(&stack, &ids[0]), owner(&stack, &ids[1]));
    let submit = |words: &[&str]| stack.cli.ok(&[&["job", "submit"], words].concat())["id"].as_str().expect("an id").to_owned();
    let explained = async |job: &str, words: &str| {
        let says = || async { Some(stack.cli.ok(&["job", "explain", job]).to_string()).filter(|said| said.contains(words)) };
        until("explain to say why", says).await
    };

    // Nobody takes it: both say why, and it goes as soon as one of them is told otherwise.
    for owner in [&a, &b] {
        owner.ok(&["consent", "only", "data-class", "public", "internal"]);
    }
    let job = submit(&["echo", "--text", "salaries", "--data-class", "confidential"]);
    let said = explained(&job, "not allowed by its owner: data class confidential").await;
    println!("{said}");
    let start = Instant::now();
    a.ok(&["consent", "any", "data-class"]);
    let done = stack.cli.ok_async(&["job", "wait", &job]).await;
    println!("done {:?} after the change", start.elapsed());
    assert_eq!((&done["state"], done["receipt"]["device"].as_str()), (&Value::from("Completed"), Some(ids[0].as_str())), "{done}");

    // Written by hand, and the very next job goes by it.
    let home = b.mesh_home.clone();
    let member = stack.cli.ok(&["credit", "balance"])["member"].as_str().expect("a member").to_owned();
    std::fs::write(home.join("consent.toml"), format!("[deny]\nmembers = [\"{member}\"]\n")).expect("a file");
    let job = submit(&["echo", "--text", "x", "--target", &ids[1], "--max-wait", "2s"]);
    explained(&job, &format!("not allowed by its owner: jobs of {member}")).await;

    // A file that cannot be read: it works for nobody, doctor says where it is wrong, and its fix lets nobody in.
    std::fs::write(home.join("consent.toml"), "[allow]\nkinds = [\"ecco\"]\n").expect("a file");
    let not_working = || async {
        let list = stack.cli.ok(&["node", "ls"]);
        let found = list["devices"].as_array().expect("devices").iter().find(|device| device["id"] == ids[1].as_str()).cloned()?;
        found["status"].as_str().filter(|status| status.contains("what its owner consents to cannot be read")).map(str::to_owned)
    };
    until("the network to hear of it", not_working).await;
    let (code, found) = b.json(&["doctor", "--only", "device"]);
    let finding = found["findings"].as_array().expect("findings").iter().find(|one| one["check"] == "consent").cloned().expect("consent");
    assert_eq!((code, &finding["verdict"], &finding["fix"]), (10, &Value::from("fail"), &Value::from("mesh consent nothing")), "{finding}");
    assert!(finding["detail"].as_str().is_some_and(|detail| detail.contains("line 2")), "{finding}");
    b.ok(&["consent", "nothing"]);

    // What waits on a device goes elsewhere; what runs there ends there.
    let file = stack.folder().join("texts.txt");
    std::fs::write(&file, (0..TEXTS).map(|n| format!("{n}: {}\n", "boats and trees, ".repeat(30))).collect::<String>()).expect("a file");
    let runs = submit(&["embed", "--file", file.to_str().expect("a path")]);
    let at = async |job: &str, state: &str| {
        let is = || async {
            let (_, seen) = doors::get(&stack, &format!("/jobs/{job}")).await;
            (seen["state"] == state).then(|| seen["device"].as_str().map(str::to_owned)).flatten()
        };
        until("it to get there", is).await
    };
    assert_eq!(at(&runs, "Executing").await, ids[0]);
    let waits = submit(&["embed", "--text", "a few words"]);
    assert_eq!(at(&waits, "Assigned").await, ids[0]);
    b.ok(&["consent", "any"]);
    a.ok(&["consent", "only", "kind", "echo"]);
    let moved = stack.cli.ok_async(&["job", "wait", &waits]).await;
    assert_eq!((&moved["state"], moved["receipt"]["device"].as_str()), (&Value::from("Completed"), Some(ids[1].as_str())), "{moved}");
    explained(&waits, "not allowed by its owner: kind embed").await;
    let ended = stack.cli.ok_async(&["job", "wait", &runs]).await;
    assert_eq!((&ended["state"], ended["receipt"]["device"].as_str()), (&Value::from("Completed"), Some(ids[0].as_str())), "{ended}");
}

/// The command line of the machine that a device runs on.
fn owner(stack: &Stack, device: &str) -> Cli {
    let devices = stack.ready["devices"].as_array().expect("devices");
    let home = devices.iter().find(|one| one["id"] == device).and_then(|one| one["home"].as_str()).expect("its home");
    Cli { mesh_home: PathBuf::from(home), ..stack.cli.clone() }
}
