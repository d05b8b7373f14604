//! Logins end; devices and the people of `mesh dev` renew theirs by themselves, also after a sleep that was longer than the login's life.

use e2e::doors;
use serde_json::Value;
use testkit::{Stack, until};

/// How long a login lives here: as short as a renewal over a busy machine allows.
const LIFE_S: u64 = 8;

/// The names of the credentials that a device has used, newest last.
fn creds_in_use(home: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("{home}/nats/leaf.conf")).ok()?;
    Some(text.split_once("credentials: \"")?.1.split_once('"')?.0.to_owned())
}

fn is_online(list: &Value, device: &str) -> Option<bool> {
    list["devices"].as_array()?.iter().find(|one| one["id"] == device)?["online"].as_bool()
}

#[tokio::test]
async fn logins_are_renewed_while_work_goes_on_and_after_a_long_sleep() {
    let mut stack = Stack::start(&["--agents", "1"], &[("MESH_CREDENTIALS_S", &LIFE_S.to_string())]);
    let (device, home) = (stack.text("/devices/0/id"), stack.text("/devices/0/home"));
    let server = std::fs::read_to_string(format!("{home}/nats.pid")).unwrap();
    let first = creds_in_use(&home).unwrap();
    let hub = std::fs::read_to_string(stack.path("/data_dir").join("network/hub.conf")).unwrap();
    let monitor = format!("http://{}", hub.split_once("\nhttp: \"").unwrap().1.split_once('"').unwrap().0);
    // Two lives of a login and more: jobs come and go all the time, over the member's login and the device's.
    let (mut renewals, mut last) = (0, first.clone());
    for n in 0.. {
        assert_eq!(doors::http(&stack, &doors::echo("on and on"), &format!("renewal-{n}")).await["state"], "Completed");
        stack.cli.ok(&["job", "run", "echo", "--text", "by the CLI"]);
        let now = creds_in_use(&home).unwrap();
        renewals += u32::from(now != last);
        last = now;
        if renewals == 5 {
            break;
        }
    }
    assert_ne!(creds_in_use(&home).unwrap(), first, "a renewal is a new file");
    assert_eq!(std::fs::read_to_string(format!("{home}/nats.pid")).unwrap(), server, "the device's server was not started again");
    // It took each: it links anew in a few milliseconds, and not only when the hub has cut a login that ended.
    let said = std::fs::read_to_string(format!("{home}/logs/nats-server.log")).unwrap();
    let (told, links) = (said.matches("Trapped \"hangup\"").count(), said.matches("Leafnode connection created").count());
    assert!(!said.contains("Failed to reload") && said.contains("Reloaded server configuration") && links <= told + 1, "{said}");

    // The whole device sleeps until its login has ended.
    let asleep = [stack.pids("agent"), stack.pids("leaf")].concat();
    asleep.iter().for_each(|pid| testkit::proc::signal(*pid, "STOP"));
    until("the end of its login, at which the hub cuts the link", || async {
        let (_, links) = testkit::http::try_send("GET", &format!("{monitor}/leafz"), &[], "").await.ok()?;
        (serde_json::from_slice::<Value>(&links).ok()?["leafnodes"] == 0).then_some(())
    })
    .await;
    asleep.iter().for_each(|pid| testkit::proc::signal(*pid, "CONT"));
    until("the device is back", || async {
        let (_, list) = doors::get(&stack, "/devices").await;
        is_online(&list, &device).filter(|online| *online)
    })
    .await;
    assert_eq!(doors::http(&stack, &doors::echo("awake"), "renewal-awake").await["state"], "Completed");
    stack.stop();
}
