//! The books for people: transfers, grants, rules, statements, proofs; what is refused; and what a machine remembers.

use bus_schemas::ledger::{Command, LedgerRequest, Op};
use bus_schemas::{MilliMana, Signer, envelope};
use e2e::{books, doors};
use serde_json::{Value, json};
use testkit::{Stack, http, proc, until};

#[tokio::test]
async fn the_books_for_people() {
    let stack = Stack::start(&["--agents", "2"], &[("MESH_TIME_DIVISOR", "4"), ("MESH_BOOKS_EVERY_S", "4")]);
    credit_moves_once_a_key(&stack).await;
    the_operator_grants_and_sets_rules(&stack).await;
    only_the_network_key_orders(&stack).await;
    a_statement_opens_in_a_spreadsheet(&stack).await;
    the_doors_give_the_ledger_as_it_is(&stack).await;
    a_receipt_is_proved(&stack).await;
    rewritten_books_are_refused(&stack).await;
    a_device_raises_the_alarm(&stack).await;
    old_money_is_not_told(&stack).await;
    altered_rows_are_found(&stack).await;
    rows_behind_are_not_told(&stack).await;
}

fn other(stack: &Stack) -> String {
    stack.text("/devices/1/member")
}
fn available(stack: &Stack) -> i64 {
    stack.cli.ok(&["credit", "balance"])["available_mmana"].as_i64().expect("a balance")
}

async fn credit_moves_once_a_key(stack: &Stack) {
    let to = other(stack);
    let before = available(stack);
    let transfer = |amount: &str, key: &str| stack.cli.json(&["credit", "transfer", &to, amount, "--note", "=for lunch", "--key", key]);
    let (code, moved) = transfer("1.5", "lunch-1");
    assert_eq!((code, &moved["repeat"], &moved["amount_mmana"]), (0, &json!(false), &json!(1500)), "{moved}");
    assert_eq!(available(stack), before - 1500, "what was answered is seen at once");
    let (code, again) = transfer("1.5", "lunch-1");
    assert_eq!((code, &again["repeat"], &again["fact"]), (0, &json!(true), &moved["fact"]), "{again}");
    let (code, conflict) = transfer("2", "lunch-1");
    assert_eq!((code, &conflict["code"]), (4, &json!("M0502")), "{conflict}");
    assert_eq!(conflict["next"][0], "mesh credit history", "{conflict}");
    assert_eq!(available(stack), before - 1500);

    // Over HTTP the key may be a header, and people write mana.
    let authorization = format!("Bearer {}", stack.token());
    let headers = [("authorization", authorization.as_str()), ("idempotency-key", "lunch-2")];
    let body = json!({"to": to, "amount": "0.25"}).to_string();
    let (status, moved) = http::send("POST", &stack.api("/api/v1/credit/transfer"), &headers, body.clone()).await;
    assert_eq!((status, &moved["amount_mmana"]), (200, &json!(250)), "{moved}");
    let (status, _) = http::send("POST", &stack.api("/api/v1/credit/transfer"), &[], body.clone()).await;
    assert_eq!(status, 401);
    let (status, nothing) = http::send("POST", &stack.api("/api/v1/credit/transfer"), &headers[..1], body).await;
    assert_eq!((status, &nothing["code"]), (400, &json!("M0110")), "{nothing}");

    // Two keys that differ: neither is taken.
    for (own, name, given) in [("lunch-3", "idempotency-key", "lunch-4"), ("lunch-3", "mesh-job-key", "lunch-4")] {
        let body = json!({"to": to, "amount": "0.25", "key": own}).to_string();
        let (status, refused) = http::send("POST", &stack.api("/api/v1/credit/transfer"), &[headers[0], (name, given)], body.clone()).await;
        assert_eq!((status, &refused["code"]), (400, &json!("M0116")), "{refused}");
        let detail = refused["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(own) && detail.contains(given), "{refused}");
    }
    let (code, blank) = stack.cli.json(&["credit", "grant", &to, "1", "--reason", " "]);
    assert_eq!((code, &blank["code"]), (2, &json!("M0210")), "{blank}");

    let me = stack.text("/member/id");
    let refused: [(&str, &str, i32, &str); 6] = [
        (&to, "99999999999", 8, "M0601"),
        (&to, "0", 2, "M0114"),
        (&to, "-1", 2, "M0114"),
        (&to, "0.0001", 2, "M0114"),
        (&me, "1", 2, "M0116"),
        ("mem_aaaaaaaaaaaaaaaaaaaaaaaaaa", "1", 9, "M0513"),
    ];
    for (to, amount, exit, name) in refused {
        let (code, answer) = stack.cli.json(&["credit", "transfer", to, amount]);
        assert_eq!(answer["code"], name, "{to} {amount}: {answer}");
        assert_eq!(code, exit, "{to} {amount}: {answer}");
        assert!(answer["next"][0].is_string(), "{answer}");
    }
    assert_eq!(available(stack), before - 1750);

    // Whoever sits at a device is not its owner.
    let device = stack.text("/devices/0/id");
    let creds = stack.path("/devices/0/home").join("creds-a.creds");
    let bus = stack.connect(&stack.text("/nats/url"), bus::connect::Login::Creds(creds), &format!("_INBOX.{device}")).await;
    let ask = json!({"to": to, "amount": 1, "key": "device"}).to_string();
    let answer = bus.client.request(format!("mesh.v1.api.{device}.credit.transfer"), ask.into()).await.expect("an answer");
    let answer: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!(answer["code"], "M0402", "{answer}");
}

async fn the_operator_grants_and_sets_rules(stack: &Stack) {
    let me = stack.text("/member/id");
    let before = available(stack);
    let granted = stack.cli.ok(&["credit", "grant", &me, "10", "--reason", "welcome", "--key", "grant-1"]);
    assert_eq!((&granted["repeat"], &granted["amount_mmana"]), (&json!(false), &json!(10_000)), "{granted}");
    assert_eq!(stack.cli.ok(&["credit", "grant", &me, "10", "--reason", "welcome", "--key", "grant-1"])["repeat"], true);
    assert_eq!(available(stack), before + 10_000);

    let shown = stack.cli.ok(&["network", "policy", "show"]);
    assert_eq!(shown["rules"]["version"], 1, "{shown}");
    let mut rules = shown["rules"].clone();
    rules["fee_bp"] = json!(500);
    rules.as_object_mut().expect("an object").remove("version");
    let file = stack.folder().join("rules.json");
    std::fs::write(&file, rules.to_string()).expect("a file");
    let file = file.to_str().expect("a path");
    let dry = stack.cli.ok(&["network", "policy", "set", file, "--dry-run"]);
    assert_eq!((&dry["done"], &dry["version"]), (&json!(false), &json!(2)), "{dry}");
    assert_eq!(dry["changes"], json!([{"rule": "fee_bp", "from": 0, "to": 500}]));
    assert_eq!(stack.cli.ok(&["network", "policy", "show"])["rules"]["version"], 1);
    let set = stack.cli.ok(&["network", "policy", "set", file]);
    assert_eq!((&set["done"], &set["version"]), (&json!(true), &json!(2)), "{set}");
    let shown = stack.cli.ok(&["network", "policy", "show"]);
    assert_eq!((&shown["rules"]["fee_bp"], &shown["rules"]["version"]), (&json!(500), &json!(2)), "{shown}");
    assert_eq!(stack.cli.ok(&["network", "policy", "set", file])["changes"], json!([]), "again: nothing changes");
    let twice = stack.folder().join("twice.json");
    std::fs::write(&twice, rules.to_string().replacen('{', "{\"fee_bp\":500,", 1)).expect("a file");
    let (code, refused) = stack.cli.json(&["network", "policy", "set", twice.to_str().expect("a path")]);
    assert_eq!((code, &refused["code"]), (2, &json!("M0206")), "{refused}");
    assert!(refused["detail"].as_str().is_some_and(|why| why.contains("duplicate key \"fee_bp\"")), "{refused}");

    // The rules hold: the commons get their share, and the statement shows it.
    let done = doors::http(stack, &doors::echo("with a fee"), "with-a-fee").await;
    let auditor = stack.auditor().await;
    let id = done["id"].as_str().expect("an id").parse().expect("a CID");
    until("the settlement", || async { books::replay(stack, &auditor).await.is_settled(&id).then_some(()) }).await;
}

async fn only_the_network_key_orders(stack: &Stack) {
    let network = bus::keys::read_network(&stack.path("/data_dir").join("network/network.json")).expect("the document");
    let keys = stack.path("/data_dir").join("network/keys");
    let member = stack.text("/member/id").parse().expect("a member");
    let order = |signer: &Signer| {
        let op = Op::Mint { member, amount_mmana: MilliMana::mana(1), reason: "mine".into(), key: "mine".into() };
        let command = Command { net: network.network, at: bus::hub_time::here_ms(), op };
        envelope::encode(&LedgerRequest { commands: signer.batch(&[command]), assignments: vec![], receipts: vec![] })
    };
    let before = available(stack);
    let url = stack.api("/api/v1/ledger/commands");
    for key in ["gateway", "ledger", "scheduler"] {
        let signer = bus::keys::read_key_file(&keys.join(format!("{key}.key"))).expect("a key");
        let (status, answer) = http::send("POST", &url, &[], order(&signer)).await;
        assert_eq!((status, &answer["code"]), (403, &json!("M0302")), "{key}: {answer}");
    }
    let operator = bus::keys::read_key_file(&keys.join("network.key")).expect("the network's key");
    let mut forged: LedgerRequest = rmp_serde::from_slice(&order(&Signer::from_seed(&[5; 32]))).expect("a request");
    forged.commands.k = operator.public();
    let (status, answer) = http::send("POST", &url, &[], envelope::encode(&forged)).await;
    assert_eq!((status, &answer["code"]), (401, &json!("M0301")), "{answer}");
    for garbage in [&b""[..], b"{}", b"\x80", b"\x81\xa1a"] {
        let (status, answer) = http::send("POST", &url, &[], garbage.to_vec()).await;
        assert_eq!(status, 400, "{answer}");
    }
    assert_eq!(available(stack), before);
    let (status, answer) = http::send("POST", &url, &[], order(&operator)).await;
    assert_eq!((status, answer["outcomes"][0]["done"]["repeat"].as_bool()), (200, Some(false)), "{answer}");
    assert_eq!(available(stack), before + 1000);
    let other_key = stack.path("/data_dir").join("network/keys/gateway.key");
    let words = ["credit", "grant", &stack.text("/member/id"), "1", "--reason", "x", "--network-key", other_key.to_str().expect("a path")];
    let (code, answer) = stack.cli.json(&words);
    assert_eq!((code, &answer["code"]), (7, &json!("M0302")), "{answer}");
}

async fn a_statement_opens_in_a_spreadsheet(stack: &Stack) {
    let output = stack.cli.run(&["credit", "export", "--format", "csv", "-q"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("time,sequence,what,account,with,job,mana,mmana,note"));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.iter().all(|row| row.len() == 9), "{text}");
    let lunch = rows.iter().find(|row| row[8] == "'=for lunch").unwrap_or_else(|| panic!("no lunch in {text}"));
    assert_eq!((lunch[2], lunch[6], lunch[7]), ("transfer", "-1.5", "-1500"));
    assert!(lunch[0].ends_with('Z') && lunch[0].contains('T'), "{lunch:?}");
    let sum = |account: &str| {
        rows.iter().filter(|row| row[3].ends_with(account)).map(|row| row[7].parse::<i64>().expect("a number")).sum::<i64>()
    };
    let balance = stack.cli.ok(&["credit", "balance"]);
    assert_eq!((json!(sum("/available")), json!(sum("/held"))), (balance["available_mmana"].clone(), balance["held_mmana"].clone()));
    let seqs: Vec<u64> = rows.iter().map(|row| row[1].parse().expect("a sequence")).collect();
    assert!(seqs.is_sorted(), "oldest first");
    let all = stack.cli.ok(&["credit", "export", "--format", "json"]);
    assert_eq!(all["entries"].as_array().map(Vec::len), Some(rows.len()));
    let none = stack.cli.ok(&["credit", "export", "--since", "2999-01-01"]);
    assert_eq!(none["entries"], json!([]));
    let (code, bad) = stack.cli.json(&["credit", "export", "--since", "soon"]);
    assert_eq!((code, &bad["code"]), (2, &json!("M0116")), "{bad}");
    let page = stack.cli.ok(&["credit", "history", "--limit", "2"]);
    assert_eq!(page["entries"].as_array().map(Vec::len), Some(2), "{page}");
    assert!(page["cursor"].is_string(), "{page}");
}

async fn the_doors_give_the_ledger_as_it_is(stack: &Stack) {
    let auditor = stack.auditor().await;
    let replayed = books::replay(stack, &auditor).await;
    let (mut bodies, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let (status, page) = doors::get(stack, &format!("/ledger/facts?after={after}&limit=7")).await;
        assert_eq!(status, 200, "{page}");
        for fact in page["facts"].as_array().expect("facts") {
            bodies.push(fact["body"].as_str().expect("a text").to_owned());
        }
        let Some(cursor) = page["cursor"].as_str() else { break };
        after = cursor.to_owned();
    }
    for (fact, body) in replayed.facts.iter().zip(&bodies) {
        assert_eq!(serde_json::from_str::<bus_schemas::ledger::Fact>(body).expect("a fact"), *fact);
    }
    assert!(bodies.len() >= replayed.facts.len());
    let (_, balances) = doors::get(stack, "/ledger/balances").await;
    let mint = balances["balances"].as_array().expect("balances").iter().find(|one| one["account"] == "mint").cloned();
    assert_eq!(mint.expect("mint")["balance_mmana"], replayed.books.balance_of(&bus_schemas::ledger::Account::Mint));
    for bad in [
        "/ledger/facts?after=x",
        "/ledger/facts?limit=0",
        "/ledger/facts?limt=1",
        "/ledger/checkpoints?before=x",
        "/ledger/consistency?from=0&to=1",
        "/ledger/consistency?from=2&to=1",
        "/ledger/consistency?from=1&to=99999999",
        "/ledger/consistency",
    ] {
        let (status, answer) = doors::get(stack, bad).await;
        assert_eq!((status, answer["code"].is_string()), (400, true), "{bad}: {answer}");
    }
    let (status, _) = http::send("GET", &stack.api("/api/v1/ledger/facts"), &[], "").await;
    assert_eq!(status, 401);
    let (status, answer) = doors::get(stack, "/ledger/proof/job_aaaaaaaa").await;
    assert_eq!((status, &answer["code"]), (404, &json!("M0501")), "{answer}");
}

async fn a_receipt_is_proved(stack: &Stack) {
    let done = doors::http(stack, &doors::echo("to be proved"), "to-be-proved").await;
    let (job, receipt) = (done["id"].as_str().expect("an id"), done["receipt"]["id"].as_str().expect("a receipt"));
    let proven = until("the proof", || async {
        // Until the settlement and a checkpoint after it are there, the answer says which of them is missing.
        let (code, proven) = stack.cli.json(&["credit", "proof", receipt]);
        assert!(code == 0 || proven["code"] == "M0604" || proven["code"] == "M0504" || proven["code"] == "M0501", "{proven}");
        (code == 0).then_some(proven)
    })
    .await;
    assert_eq!((&proven["ok"], &proven["job"], &proven["receipt"]), (&json!(true), &json!(job), &json!(receipt)), "{proven}");
    let short = format!("rcp_{}", &receipt[7..15]);
    for id in [job, short.as_str(), &format!("job_{}", &job[7..15])] {
        assert_eq!(stack.cli.ok(&["credit", "proof", id])["seq"], proven["seq"], "{id}");
    }
    assert!(remembered(stack).exists(), "the checkpoint is remembered");
}

fn remembered(stack: &Stack) -> std::path::PathBuf {
    stack.cli.mesh_home.join("checkpoints").join(format!("{}.json", stack.text("/network")))
}

async fn rewritten_books_are_refused(stack: &Stack) {
    let path = remembered(stack);
    let sound = std::fs::read_to_string(&path).expect("a remembered checkpoint");
    let mut seen: Value = serde_json::from_str(&sound).expect("JSON");
    let seq = seen["seq"].as_u64().expect("a sequence");
    // As it would be had the books been others when this machine looked.
    seen["root"] = json!("00".repeat(32));
    std::fs::write(&path, seen.to_string()).expect("a file");
    let (me, to) = (stack.text("/member/id"), other(stack));
    let transfer = ["credit", "transfer", &to, "1", "--key", "not-moved"];
    let grant = ["credit", "grant", &me, "1", "--reason", "not given", "--key", "not-given"];
    for words in [&["credit", "balance"][..], &["credit", "history"], &["credit", "export"], &transfer, &grant] {
        let (code, refused) = stack.cli.json(words);
        assert_eq!((code, &refused["code"]), (1, &json!("M0603")), "{words:?}: {refused}");
        assert!(refused["next"].as_array().is_some_and(|next| next.iter().any(|next| next == "mesh credit verify")), "{refused}");
    }
    let (code, report) = stack.cli.json(&["doctor", "--only", "net"]);
    let findings = report["findings"].as_array().expect("findings");
    let found = findings.iter().find(|finding| finding["check"] == "books").expect("a finding about the books");
    assert_eq!((code, &found["verdict"], &found["fix"]), (10, &json!("fail"), &json!("mesh credit verify")), "{report}");
    let (code, report) = stack.cli.json(&["credit", "verify"]);
    assert_eq!((code, &report["ok"]), (1, &json!(false)), "{report}");
    assert!(report["wrong"][0].as_str().is_some_and(|wrong| wrong.contains(&format!("sequence {seq}"))), "{report}");
    assert_eq!(std::fs::read_to_string(&path).expect("the evidence"), seen.to_string(), "it is not written over");
    std::fs::write(&path, sound).expect("a file");
    assert_eq!(stack.cli.ok(&["credit", "verify"])["ok"], true);
    for words in [&transfer[..], &grant] {
        assert_eq!(stack.cli.ok(words)["repeat"], false, "nothing had moved: {words:?}");
    }
}

/// An agent looks by itself.
async fn a_device_raises_the_alarm(stack: &Stack) {
    let path = stack.path("/devices/0/home").join("checkpoints").join(format!("{}.json", stack.text("/network")));
    let sound = until("the agent to remember a checkpoint", || async { std::fs::read_to_string(&path).ok() }).await;
    let local = stack.local(0).await;
    let status = || async {
        let answer = local.client.request("mesh.status", "".into()).await.expect("the agent answers");
        serde_json::from_slice::<Value>(&answer.payload).expect("JSON")
    };
    assert_eq!(status().await["alarm"], Value::Null);
    let mut seen: Value = serde_json::from_str(&sound).expect("JSON");
    seen["root"] = json!("00".repeat(32));
    std::fs::write(&path, seen.to_string()).expect("a file");
    let alarm = until("the alarm", || async { Some(status().await["alarm"].clone()).filter(|alarm| !alarm.is_null()) }).await;
    assert_eq!(alarm["code"], "M0603", "{alarm}");
    std::fs::write(&path, sound).expect("a file");
    until("the alarm to end", || async { status().await["alarm"].is_null().then_some(()) }).await;
}

/// With its database frozen the gateway says so; it does not tell what was.
async fn old_money_is_not_told(stack: &Stack) {
    let postgres = stack.pids("postgres")[0];
    let children: Vec<u32> = children(postgres);
    let all = || children.iter().chain([&postgres]);
    all().for_each(|pid| proc::signal(*pid, "STOP"));
    let (status, answer) = doors::get(stack, "/credit/balance").await;
    all().for_each(|pid| proc::signal(*pid, "CONT"));
    assert_eq!((status, &answer["code"]), (503, &json!("M0701")), "{answer}");
    assert!(answer["detail"].as_str().is_some_and(|why| why.contains("database")), "{answer}");
    until("the database to be back", || async {
        let (status, _) = doors::get(stack, "/credit/balance").await;
        (status == 200).then_some(())
    })
    .await;
}

/// Rows that somebody changed add up as they stand, so only the replay tells.
async fn altered_rows_are_found(stack: &Stack) {
    let (client, connection) = tokio_postgres::connect(&superuser(stack), tokio_postgres::NoTls).await.expect("the stack's superuser");
    tokio::spawn(connection);
    let me = stack.text("/member/id");
    let alter = |by: i64| {
        let delta = format!("case id when 'mint' then -({by}) else {by} end");
        format!("update ledger.account set balance = balance + {delta} where id in ('mint', '{me}/available')")
    };
    client.batch_execute(&alter(1_234_000)).await.expect("an alteration");
    let to = other(stack);
    let goes_on = || async { (stack.cli.json(&["credit", "transfer", &to, "0.001", "--key", "goes on"]).0 == 0).then_some(()) };
    let (code, report) = until("the comparison", || async {
        let (code, report) = stack.cli.json(&["credit", "verify"]);
        let why = report["gateway"]["not_compared"]["why"].as_str();
        if why.is_some_and(|why| why.contains("the ledger has stopped")) {
            // The ledger saw it first, and nothing is told any more.
            client.batch_execute(&alter(-1_234_000)).await.expect("as it was");
            until("the ledger to go on", goes_on).await;
            client.batch_execute(&alter(1_234_000)).await.expect("an alteration");
        }
        why.is_none().then_some((code, report))
    })
    .await;
    client.batch_execute(&alter(-1_234_000)).await.expect("as it was");
    assert_eq!((code, &report["ok"]), (1, &json!(false)), "{report}");
    let wrong = report["wrong"].as_array().expect("what is wrong");
    assert_eq!(wrong.len(), 1, "{report}");
    let wrong = wrong[0].as_str().expect("a sentence");
    assert!(wrong.starts_with("the gateway tells ") && wrong.contains(&format!("of {me}/available, LEDGER makes it ")), "{wrong}");
    assert!(report["gateway"]["differs"]["seq"].is_u64(), "{report}");
    // A worker that saw it stood still; it goes on by itself.
    until("the ledger to go on", goes_on).await;
    // No false alarm, while facts flow.
    for n in 0..3 {
        let jobs = (0..20).map(|job| (format!("flow {n} {job}"), format!("flow-{n}-{job}")));
        let sent = jobs.map(|(text, key)| async move { doors::http(stack, &doors::echo(&text), &key).await });
        let (_, report) = tokio::join!(futures::future::join_all(sent), stack.cli.ok_async(&["credit", "verify"]));
        assert!(report["gateway"]["same"]["seq"].is_u64(), "{report}");
    }
}

fn superuser(stack: &Stack) -> String {
    stack.text("/postgres/url").replacen("mesh_reader", "mesh", 1)
}

/// Rows that cannot follow are not told either, while everything else goes on; nobody need do anything once the database takes writes.
async fn rows_behind_are_not_told(stack: &Stack) {
    let (client, connection) = tokio_postgres::connect(&superuser(stack), tokio_postgres::NoTls).await.expect("the stack's superuser");
    tokio::spawn(connection);
    // The worker's connections are made again, so that each learns it.
    let set = |how: &str| {
        format!(
            "alter role mesh_ledger set default_transaction_read_only = {how};
             select pg_terminate_backend(pid) from pg_stat_activity where usename = 'mesh_ledger'"
        )
    };
    client.batch_execute(&set("on")).await.expect("a setting");
    assert_eq!(doors::http(stack, &doors::echo("paid while rows stand still"), "rows-behind").await["state"], "Completed");
    let (status, answer) = doors::get(stack, "/credit/balance").await;
    assert_eq!((status, &answer["code"]), (503, &json!("M0701")), "{answer}");
    assert!(answer["detail"].as_str().is_some_and(|why| why.contains("no old balance is told")), "{answer}");
    client.batch_execute(&set("off")).await.expect("a setting");
    until("the rows to be there", || async { (doors::get(stack, "/credit/balance").await.0 == 200).then_some(()) }).await;
    assert_eq!(stack.cli.ok(&["credit", "verify"])["ok"], true);
}

fn children(of: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}
