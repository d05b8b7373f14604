#!/usr/bin/env bash
# A story of about a minute on real parts: jobs, bids, signed receipts, a device that dies with work in hand, books that balance.
#
# Ends with 0 only if all of it was true, and leaves nothing running. Needs no terminal and asks nothing.
#
# MESH_BIN_DIR      the folder of the built programs (otherwise bin/ of the clone)
# MESH_DEMO_TEXTS   how many texts the job has whose device is killed (800)
set -Eeuo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/stack.sh"
cd "$root"
tools=scripts/demo
sentences=examples/sentences.txt

# ---------------------------------------------------------------- how it tells its story

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
step='starting' number=0

on_failure() { printf '\n%sFAILED%s in step %d (%s): %s\n' "$bold" "$plain" "$number" "$step" "$*"; }

headline() {
    number=$((number + 1)) step=$1
    printf '\n%s%d. %s%s\n' "$bold" "$number" "$step" "$plain"
}

# Long values that differ in every run, shortened for the eye.
line_wise=-u
sed -u p </dev/null 2>/dev/null || line_wise=-l
shorten() {
    sed $line_wise -e "s|$here|\$DEMO|g" -e "s|$root/||g" -e 's/^/  /' -e 's/^\(.\{156\}\).\{4,\}$/\1 .../'
}

# tell COMMAND...: the command as a person would type it.
tell() { printf '%s$ %s%s\n' "$dim" "$*" "$plain"; }

quoted() {
    local word out=''
    for word in "$@"; do
        word=${word//"$here"/\$DEMO}
        [[ -z ${python:-} ]] || word=${word/#"$python"/python3}
        [[ $word =~ ^[A-Za-z0-9_./:=,+@\$-]+$ ]] || word="'$word'"
        out+="$word "
    done
    printf '%s' "${out% }"
}

# run SECONDS FILE COMMAND...: tells the command and runs it. Its stdout goes to FILE; its stderr (progress) is shown as it comes.
run() {
    local limit=$1 file=$2 status=0
    shift 2
    tell "$(quoted "$@")"
    limited "$limit" "$@" </dev/null 2>&1 >"$file" | tee "$here/last.err" | shorten || status=$?
    [[ $status -ne 124 ]] || fail "no end after $limit s: $(quoted "$@")"
    [[ $status -eq 0 ]] || fail "exit code $status of: $(quoted "$@")"$'\n'"$(head -c 2000 "$file")"
}

must() { "$@" || fail "this is not true: $*"; }

# ---------------------------------------------------------------- the story

headline 'A whole network on this machine: hub, Postgres, gateway, scheduler, ledger, three devices'
tell "mesh dev --agents 3 --random-ports --data-dir \$DEMO/data -o json"
start_stack --agents 3
python3 $tools/ready.py "$here/ready.json"

headline "$(wc -l <"$sentences" | tr -d ' ') sentences become vectors, on whichever device bids best"
run 120 "$here/sentences.json" mesh job run embed --file "$sentences" -o json
id=$(field "$here/sentences.json" /id)
device=$(field "$here/sentences.json" /receipt/device)
echo "  ran on $(field "$here/ready.json" "/devices/id=$device/name"): $(field "$here/sentences.json" /result/model), $(field "$here/sentences.json" /result/dims) numbers a sentence"

question='What happens to my work when somebody closes the laptop?'
headline "The sentences nearest to a question: $question"
run 60 "$here/question.json" mesh job run embed --text "$question" -o json
tell 'nearest.py sentences.txt sentences.json question.json'
python3 $tools/nearest.py "$sentences" "$here/sentences.json" "$here/question.json" >"$here/nearest.txt"
cat "$here/nearest.txt"
must grep -q 'another machine picks the task up' <(head -n 1 "$here/nearest.txt")

question='How do I know that a storm is coming?'
headline "The same kind of job as one plain message on a device's own nats-server: $question"
local_url=$(field "$here/ready.json" /devices/0/local_url)
key=demo-$$-$RANDOM
job="{\"kind\":\"embed\",\"text\":\"$question\"}"
nats=()
if command -v nats >/dev/null 2>&1; then
    nats=(--nats)
    tell "nats --server $local_url pub -J -H Mesh-Job-Key:$key submit '$job'"
fi
run 90 "$here/raw.json" python3 $tools/nats_pub.py "$local_url" "$key" "$job" ${nats[@]+"${nats[@]}"}
python3 $tools/nearest.py "$sentences" "$here/sentences.json" "$here/raw.json" >"$here/nearest.txt"
cat "$here/nearest.txt"
must grep -qE 'storm' <(head -n 1 "$here/nearest.txt")

headline 'Why did it run where it ran?'
id=job_${id:7:8} # what people see and type: all ids begin with the same seven letters
run 30 "$here/explain.txt" mesh job explain "$id"
shorten <"$here/explain.txt"
mesh job explain "$id" -o json </dev/null >"$here/explain.json"
must python3 $tools/ready.py "$here/ready.json" --explained "$here/explain.json" --winner "$device"

headline 'The receipt is signed by the device, and anybody can check it'
run 30 "$here/receipt.txt" mesh job receipt "$id" --verify
shorten <"$here/receipt.txt"

headline 'A device is killed with work in hand'
python3 $tools/texts.py "$sentences" "${MESH_DEMO_TEXTS:-800}" >"$here/long.txt"
run 30 "$here/long.json" mesh job submit embed --file "$here/long.txt" --max-mana 100 -o json
id=$(field "$here/long.json" /short)
has_holder() {
    mesh job show "$id" -o json </dev/null >"$here/show.json" 2>/dev/null || return 1
    case $(field "$here/show.json" /state) in
    Assigned | Executing) killed=$(field "$here/show.json" /device 2>/dev/null) ;;
    Completed) fail 'the job was done before its device could be killed; give it more texts with MESH_DEMO_TEXTS' ;;
    Failed | Cancelled | Rejected) fail "the job ended: $(cat "$here/show.json")" ;;
    *) return 1 ;;
    esac
}
until_true 60 'a device to take the job' has_holder
name=$(field "$here/ready.json" "/devices/id=$killed/name")
pid=$(python3 $tools/ready.py "$here/ready.json" --agent "$name")
echo "  $(field "$here/show.json" /short) is $(field "$here/show.json" /state) on $name"
tell "kill -9 $pid   # the agent of $name"
kill -KILL "$pid"
run 120 "$here/wait.json" mesh job wait "$id" --timeout 110s -o json
run 30 "$here/show.json" mesh job show "$id" -o json
must test "$(field "$here/show.json" /state)" = Completed
winner=$(field "$here/show.json" /device)
[[ $winner != "$killed" ]] || fail "$name was killed, and still finished the job"
run 60 "$here/long-result.json" mesh job result "$id" -o json
must test "$(field "$here/long-result.json" /receipt/device)" = "$winner"
must python3 $tools/nearest.py "$here/long.txt" "$here/long-result.json" "$here/question.json" 0
echo "  $(wc -l <"$here/long.txt" | tr -d ' ') vectors, finished by $(field "$here/ready.json" "/devices/id=$winner/name") instead of $name"

headline 'Credits moved, and all balances add up to zero'
run 30 "$here/balance.txt" mesh credit balance
shorten <"$here/balance.txt"
until_true 30 'all holds to be settled' python3 $tools/books.py "$here/ready.json" --quiet
tell "books.py ready.json   # every account in Postgres"
python3 $tools/books.py "$here/ready.json"

headline 'Replaying the ledger from its first fact gives the same books, and the same database'
run 60 "$here/verify.json" mesh credit verify -o json
echo "  ok: $(field "$here/verify.json" /ok), $(field "$here/verify.json" /facts) facts, digest $(field "$here/verify.json" /digest)"
must test "$(field "$here/verify.json" /ok)" = true
must test "$(field "$here/verify.json" /total_mmana)" = 0
DATABASE_URL=$(field "$here/ready.json" /postgres/url) run 60 "$here/ledger.json" mesh-ledger verify --nats-url "$(field "$here/ready.json" /nats/url)" \
    --creds "$(field "$here/ready.json" /auditor/creds)" --network "$here/data/network/network.json" \
    --api-prefix "$(field "$here/ready.json" /auditor/js_prefix)" --inbox-prefix "$(field "$here/ready.json" /auditor/inbox_prefix)" -o json
echo "  ok: $(field "$here/ledger.json" /ok), database $(field "$here/ledger.json" /database_digest)"
must test "$(field "$here/ledger.json" /ok)" = true
must test "$(field "$here/ledger.json" /digest)" = "$(field "$here/verify.json" /digest)"
must test "$(field "$here/ledger.json" /database_digest)" = "$(field "$here/verify.json" /digest)"

headline 'A stranger replays the ledger: a Python script written from docs/ledger-format.md, with read-only credentials'
python=$(scripts/replay_venv.sh) || fail 'no Python folder for examples/replay.py'
run 60 "$here/stranger.txt" "$python" examples/replay.py "$(field "$here/ready.json" /nats/url)" "$(field "$here/ready.json" /auditor/creds)" "$here/data/network/network.json"
shorten <"$here/stranger.txt"
must grep -qE " digest  $(field "$here/verify.json" /digest)\$" "$here/stranger.txt"
must grep -qE ' sum  0$' "$here/stranger.txt"

headline 'Everything stops, and nothing is left running'
started=()
while IFS=$'\t' read -r pid _; do started+=("$pid"); done < <(python3 scripts/processes.py tree "$dev")
tell "kill $dev   # mesh dev, with ${#started[@]} processes in all"
begin=$SECONDS
stop_stack
must test "$stopped" = 0
((SECONDS - begin <= 11)) || fail "stopping took $((SECONDS - begin)) s; 10 are allowed"
left=$(python3 scripts/processes.py running "${started[@]}") || fail "still running: $left"
left=$(python3 scripts/processes.py naming "$here") || fail "still running: $left"
printf '\n%sAll of it was true.%s %d s\n' "$bold" "$plain" "$SECONDS"
