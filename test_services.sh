#!/bin/sh
# Checks a running stack from outside, with curl and nothing else: the calls that the specification promises, and what
# comes of them. One line for each check; the last line counts them, and the exit status is 0 only if all have passed.
#
# Where the stack is: CAMPAIGN_URL, BLOCKCHAIN_URL, PUBSUB_EMULATOR_HOST, GCP_PROJECT_ID. `make up` starts one at the defaults.
set -u

campaign=${CAMPAIGN_URL:-http://localhost:8080}
blockchain=${BLOCKCHAIN_URL:-http://localhost:8081}
pubsub=http://${PUBSUB_EMULATOR_HOST:-localhost:8681}/v1/projects/${GCP_PROJECT_ID:-test-project}
patience=${PATIENCE_SECONDS:-60}

# Names that no earlier run has used.
run=$(date +%s)-$$
passed=0
failed=0
body=$(mktemp)
trap 'rm -f "$body"' EXIT

pass() { passed=$((passed + 1)); echo "ok      $1"; }
fail() { failed=$((failed + 1)); echo "FAILED  $1: $2"; }

# call METHOD URL [curl arguments]: puts the status code into $status and the answer into $answer.
call() {
    method=$1
    url=$2
    shift 2
    status=$(curl -s -m 20 -o "$body" -w '%{http_code}' -X "$method" "$@" "$url") || status=000
    answer=$(cat "$body")
    : >"$body"
}

# is NAME STATUS [PATTERN]: the last call answered with this status, and a body that has the (basic regular) pattern.
is() {
    if [ "$status" != "$2" ]; then
        fail "$1" "$url answered $status, not $2: $answer"
    elif [ $# -gt 2 ] && ! printf '%s' "$answer" | grep -q "$3"; then
        fail "$1" "no $3 in: $answer"
    else
        pass "$1"
    fi
}

# field NAME: the first text of this name in the last answer.
field() { printf '%s' "$answer" | grep -o "\"$1\" *: *\"[^\"]*\"" | head -n 1 | sed 's/.*"\([^"]*\)"$/\1/'; }

# minted NAME REQUEST_ID: the grant is completed soon, by a transaction.
minted() {
    deadline=$(($(date +%s) + patience))
    while :; do
        call GET "$campaign/grants/$2"
        state=$(field state)
        [ "$state" = completed ] && [ -n "$(field transaction_hash)" ] && { pass "$1"; return; }
        [ "$state" = failed ] && { fail "$1" "$answer"; return; }
        [ "$(date +%s)" -lt "$deadline" ] || { fail "$1" "not completed after $patience s: $answer"; return; }
        sleep 0.2
    done
}

# ended NAME REQUEST_ID STATES: the grant soon ends in one of these states (words with spaces between them), left in $state.
ended() {
    deadline=$(($(date +%s) + patience))
    while :; do
        call GET "$campaign/grants/$2"
        state=$(field state)
        case " $3 " in *" $state "*) pass "$1"; return ;; esac
        case $state in completed | failed | expired | cancelled) fail "$1" "it is $state: $answer"; return ;; esac
        [ "$(date +%s)" -lt "$deadline" ] || { fail "$1" "still $state after $patience s: $answer"; return; }
        sleep 0.2
    done
}

# proven NAME CAMPAIGN WALLET: the wallet soon has a proof for a grant of the campaign.
proven() {
    deadline=$(($(date +%s) + patience))
    while :; do
        call GET "$campaign/claims/$2/$3"
        case $answer in *'"proof"'*) pass "$1"; return ;; esac
        [ "$(date +%s)" -lt "$deadline" ] || { fail "$1" "no proof after $patience s: $answer"; return; }
        sleep 0.2
    done
}

# Both services

for service in "$campaign" "$blockchain"; do
    call GET "$service/livez"
    is "$service is alive" 200
    call GET "$service/readyz"
    is "$service is ready" 200
    call GET "$service/metrics"
    is "$service has metrics" 200 '^# TYPE '
done
call GET "$blockchain/health"
is 'the blockchain service is healthy' 200
call GET "$blockchain/stats"
is 'the blockchain service has statistics' 200 'minted'
call GET "$campaign/openapi.json"
is 'the campaign service describes itself' 200 '"openapi" *: *"3\.1'

# Pub/Sub

for topic in token-grant-requests token-grant-results; do
    call GET "$pubsub/topics/$topic"
    is "topic $topic" 200 "topics/$topic"
    call GET "$pubsub/subscriptions/$topic-sub"
    is "subscription $topic-sub, with a dead-letter topic" 200 'deadLetterTopic'
done

# Dead letters and grants that need attention

for service in "$campaign" "$blockchain"; do
    call GET "$service/dead-letters?limit=1"
    is "$service lists its dead letters" 200 '"dead_letters" *: *\['
    call POST "$service/dead-letters/00000000-0000-7000-8000-000000000000/redrive"
    is "$service has no dead letter of this id" 404 '"type"'
    call POST "$service/dead-letters/redrive"
    is "$service asks which dead letters are meant" 400 '"ids"'
done
call GET "$campaign/needs-attention?limit=1"
is 'the campaign service lists the grants that need attention' 200 '"total"'

# One grant, from request to minted

call GET "$campaign/status?user_id=nobody-$run"
is 'a user nobody has seen has no grants' 200 '"grants" *: *\[\]'
call POST "$campaign/token-request?user_id=alice-$run&campaign_id=summer"
is 'a request in the query string is accepted' 202 '"token_amount" *: *100'
alice=$(field request_id)
call POST "$campaign/token-request?user_id=alice-$run&campaign_id=summer"
is 'the same request again is a repeat' 200 "$alice"
minted 'the grant is minted' "$alice"
call GET "$campaign/status?user_id=alice-$run"
is 'the status of the user shows it' 200 "\"request_id\" *: *\"$alice\".*\"state\" *: *\"completed\""
call POST "$campaign/token-request?user_id=alice-$run&campaign_id=summer"
is 'the same request after that is still a repeat' 200 "$alice"
call POST "$campaign/token-request?user_id=alice-$run&campaign_id=summer&token_amount=101"
is 'another amount for the same user and campaign is refused' 409 '"type" *: *"'

# Bodies, keys, wallets, several users

json='Content-Type: application/json'
call POST "$campaign/token-request" -H "$json" -H "Idempotency-Key: key-$run" \
    -d "{\"user_id\":\"bob-$run\",\"campaign_id\":\"summer\",\"token_amount\":25,\"wallet_address\":\"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"}"
is 'a request with a JSON body, a wallet and a key is accepted' 202 '"token_amount" *: *25'
bob=$(field request_id)
call POST "$campaign/token-request" -H "$json" -H "Idempotency-Key: key-$run" \
    -d "{\"user_id\":\"bob-$run\",\"campaign_id\":\"summer\",\"token_amount\":25,\"wallet_address\":\"0x70997970C51812dc3A010C7d01b50e0d17dc79C8\"}"
is 'the same key with the same body is a repeat' 200 "$bob"
call POST "$campaign/token-request" -H "$json" -H "Idempotency-Key: key-$run" \
    -d "{\"user_id\":\"bob-$run\",\"campaign_id\":\"winter\",\"token_amount\":25}"
is 'the same key with another body is refused' 422 '"type" *: *"'
several=
for user in carol dave erin; do
    call POST "$campaign/token-request?user_id=$user-$run&campaign_id=summer&token_amount=7"
    is "a request of $user is accepted" 202
    several="$several $(field request_id)"
done
minted 'the grant to a named wallet is minted' "$bob"
for grant in $several; do minted "grant $grant is minted" "$grant"; done

# Campaigns: a budget is reserved, spent and never exceeded

autumn="$campaign/campaigns/autumn-$run"
ask="$campaign/token-request?campaign_id=autumn-$run"
call GET "$autumn"
is 'a campaign that nobody has made' 404 'campaign-not-found'
settings='{"name":"Autumn cup","amount":5,"budget":12,"changed_by":"test_services.sh","reason":"a check"}'
call PUT "$autumn" -H "$json" -d "$settings"
is 'a campaign is made' 201 '"reserved" *: *0, *"spent" *: *0, *"budget_left" *: *12'
call PUT "$autumn" -H "$json" -d "$settings"
is 'the same settings again change nothing' 200 '"budget_left" *: *12'
call PUT "$autumn" -H "$json" -d '{"name":"","amount":0,"budget":-1,"finality":"soon","priority":10}'
is 'settings that break rules are named' 400 '"amount".*"budget".*"finality".*"priority"'
call POST "$ask&user_id=carol-$run"
is 'a request without an amount gets what the campaign pays' 202 '"token_amount" *: *5'
first=$(field request_id)
call POST "$ask&user_id=dave-$run"
is 'a second grant fits the budget' 202
second=$(field request_id)
call POST "$ask&user_id=erin-$run"
is 'a third one does not' 409 'budget-exhausted.*2 tokens are left'
call POST "$ask&user_id=carol-$run"
is 'a repeat is answered although nothing is left' 200 "$first"
minted 'the first grant of the campaign is minted' "$first"
minted 'the second grant of the campaign is minted' "$second"
call GET "$autumn"
is 'what was reserved is spent' 200 '"reserved" *: *0, *"spent" *: *10, *"budget_left" *: *2'
call GET "$autumn/statistics"
is 'the campaign has statistics' 200 '"requested" *: *2.*"completed" *: *2.*"distinct_users" *: *2.*"p99_seconds_to_mint"'
call PATCH "$autumn?budget=9"
is 'the budget cannot be less than what is spent' 409 'budget-below-spending'
call PATCH "$autumn?state=paused&budget=100&changed_by=test_services.sh"
is 'the campaign is paused' 200 '"state" *: *"paused"'
call POST "$ask&user_id=erin-$run"
is 'a paused campaign grants nothing' 409 'campaign-not-active'
call PATCH "$autumn?state=active"
is 'the campaign goes on' 200 '"state" *: *"active"'
call GET "$autumn/events"
is 'what happened to the campaign is told' 200 'CampaignCreated.*test_services.sh.*CampaignChanged.*paused'

# Campaigns: many grants in one upload

upload="$campaign/token-requests/bulk?campaign_id=autumn-$run"
lines='Content-Type: application/x-ndjson'
printf '{"user_id":"hugo-%s"}\n{"user_id":""}\n{"user_id":"ida-%s","token_amount":2}\n' "$run" "$run" >"$body.lines"
call POST "$upload" -H "$lines" --data-binary "@$body.lines"
is 'an upload is decided line by line' 202 '"accepted" *: *2.*"rejected" *: *1.*"line" *: *2'
job=$(field job_id)
call GET "$campaign/jobs/$job"
is 'the upload is shown' 200 '"state" *: *"done"'
call POST "$upload" -H "$lines" --data-binary "@$body.lines"
is 'the same upload again grants nothing new' 202 '"accepted" *: *0.*"repeated" *: *2'
rm -f "$body.lines"

# Campaigns: grants that are not wanted any more, or cannot be paid

call DELETE "$campaign/grants/$first"
is 'a grant that is paid cannot be cancelled' 409 'too-late-to-cancel'
call POST "$ask&user_id=frank-$run"
is 'a grant that will be cancelled is accepted' 202
frank=$(field request_id)
# A race with the blockchain service, which either may win.
call DELETE "$campaign/grants/$frank?changed_by=test_services.sh&reason=a+check"
case $status in
202 | 409) pass 'its cancellation is asked for, or comes too late' ;;
*) fail 'its cancellation is asked for, or comes too late' "$status: $answer" ;;
esac
ended 'it is cancelled or paid' "$frank" 'cancelled completed'
if [ "$state" = cancelled ]; then expected=200; else expected=409; fi
call DELETE "$campaign/grants/$frank"
is 'and stays so' "$expected"
call POST "$ask&user_id=gina-$run&expires_at=2020-01-01T00:00:00Z"
is 'a grant whose time is over is accepted' 202 '"expires_at"'
ended 'and expires' "$(field request_id)" expired
call PUT "$campaign/campaigns/elsewhere-$run?name=Elsewhere&amount=5&budget=5&chain_id=987654321"
is 'a campaign on another chain is made' 201 '"chain_id" *: *987654321'
call POST "$campaign/token-request?campaign_id=elsewhere-$run&user_id=gina-$run"
is 'its grant is accepted' 202
ended 'and fails' "$(field request_id)" failed
is 'with the reason' 200 '"error_code" *: *"wrong_chain"'
call GET "$campaign/campaigns/elsewhere-$run"
is 'and gives its budget back' 200 '"reserved" *: *0, *"spent" *: *0, *"budget_left" *: *5'
call PUT "$campaign/campaigns/airdrop-$run?name=Airdrop&amount=5&mode=claim"
is 'a campaign whose grants are claimed is made' 201 '"mode" *: *"claim"'
call POST "$campaign/token-request?campaign_id=airdrop-$run&user_id=hana-$run&wallet_address=0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
is 'its grant is accepted' 202
proven 'and can be claimed' "airdrop-$run" 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed
is 'from the distributor' 200 '"distributor" *: *"0x.*"state" *: *"claimable"'
for finished in autumn elsewhere airdrop; do
    call PATCH "$campaign/campaigns/$finished-$run?state=ended"
    is "campaign $finished is ended" 200 '"state" *: *"ended"'
done
call PATCH "$autumn?state=active"
is 'an ended campaign stays so' 409 'campaign-ended'

# The ledger and what is worked out from it

call GET "$campaign/grants/$first/events"
is 'what happened to a grant is told' 200 'TokenGrantRequested.*BlockchainTxSubmitted.*Completed.*"seal"'
call GET "$campaign/grants/$first?at=2020-01-01T00:00:00Z"
is 'a grant was not there at an earlier time' 404 'grant-not-found'
call GET "$campaign/events?limit=1"
is 'the ledger is told from its first entry on' 200 '"sequence" *: *1,.*"seal"'
call GET "$campaign/grants?campaign_id=autumn-$run&format=csv"
is 'the grants of a campaign are a file' 200 '^grant_index,request_id,'
call GET "$campaign/transactions?campaign_id=autumn-$run"
is 'the transactions of a campaign are listed' 200 '"campaign_id" *: *"autumn-.*"state" *: *"completed"'
call GET "$campaign/users/carol-$run"
is 'the tokens of a user are listed' 200 '"holdings" *: *\['
for service in "$campaign" "$blockchain"; do
    call GET "$service/kill-switch"
    is "$service says how its kill switch stands" 200 '"engaged" *: *[tf]'
done

# Bad input

refused() {
    name=$1
    expected=$2
    pattern=$3
    shift 3
    call POST "$@"
    is "refused: $name" "$expected" "$pattern"
}
post="$campaign/token-request"
long=$(printf '%0200d' 0)
refused 'no user' 400 'user_id' "$post?campaign_id=c"
refused 'no campaign' 400 'campaign_id' "$post?user_id=u-$run"
refused 'a blank user' 400 'user_id' "$post?user_id=%20&campaign_id=c"
refused 'a long user' 400 'user_id' "$post?user_id=$long&campaign_id=c"
refused 'a control character' 400 'user_id' "$post?user_id=u%07&campaign_id=c"
refused 'an amount of zero' 400 'token_amount' "$post?user_id=u-$run&campaign_id=c&token_amount=0"
refused 'a negative amount' 400 'token_amount' "$post?user_id=u-$run&campaign_id=c&token_amount=-1"
refused 'a huge amount' 400 'token_amount' "$post?user_id=u-$run&campaign_id=c&token_amount=99999999999999999999999999"
refused 'an amount that is no number' 400 'token_amount' "$post?user_id=u-$run&campaign_id=c&token_amount=many"
refused 'a wrong checksum' 400 'wallet_address' "$post?user_id=u-$run&campaign_id=c&wallet_address=0x70997970c51812dc3A010C7d01b50e0d17dc79C8"
refused 'the zero address' 400 'wallet_address' "$post?user_id=u-$run&campaign_id=c&wallet_address=0x0000000000000000000000000000000000000000"
refused 'an unknown field' 400 'walet_address' "$post?user_id=u-$run&campaign_id=c&walet_address=x"
refused 'malformed JSON' 400 '"type"' "$post" -H "$json" -d '{"user_id":'
refused 'a body that is not JSON' 415 '"type"' "$post" -H 'Content-Type: text/plain' -d 'user_id=u'
big=$(printf '%070000d' 0)
printf '{"user_id":"%s"}' "$big" >"$body.big"
refused 'a body over 64 KiB' 413 '"type"' "$post" -H "$json" --data-binary "@$body.big"
rm -f "$body.big"
call DELETE "$post"
is 'refused: a wrong method' 405
call GET "$campaign/status?user_id=u-$run"
is 'a refused request has stored nothing' 200 '"grants" *: *\[\]'
call GET "$campaign/grants/00000000-0000-7000-8000-000000000000"
is 'a grant that is not there' 404 '"type"'

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
