//! What is deployed fits the code: the images, docker-compose.yml, the Kubernetes manifests and .env.example say nothing
//! that the services do not read, and leave nothing out that they need.
//!
//! Values are not compared with copies of them here, but given to the services' own parsers.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
    time::Duration,
};

use alloy::{primitives::Address, signers::local::PrivateKeySigner};
use blockchain::config::{Cli, Command as Task};
use clap::{CommandFactory, FromArgMatches};
use serde::Deserialize as _;
use testkit::{
    RunDir, Service, anvil,
    paths::{on_path, workspace},
    ports, until,
};
use yaml_serde::Value;

type Environment = BTreeMap<String, String>;

/// The services: the crate, and with it the program, the port and the image.
const SERVICES: [(&str, u16, &str); 2] =
    [("campaign", 8080, "campaign-service"), ("blockchain", 8081, "blockchain-service")];

const SOON: Duration = Duration::from_secs(20);

/// The target of the founding documents.
const MEMORY_BYTES: u64 = 100_000_000;

#[test]
fn compose_sets_what_the_services_read_and_all_they_need() {
    let compose = compose();
    for (name, ..) in SERVICES {
        let environment = strings(&compose["services"][name]["environment"]);
        assert_eq!(unread(name, &environment), Vec::<&str>::new(), "{name}");
        assert_eq!(problems(name, &environment), "", "{name}");
        assert_eq!(environment["PUBSUB_EMULATOR_HOST"], "pubsub:8681", "{name}");
    }
    let deploy = strings(&compose["services"]["contracts"]["environment"]);
    assert_eq!(unread("deploy", &deploy), Vec::<&str>::new());
    let Some(Task::Deploy(deploy)) = parsed::<Cli>(&["deploy"], &deploy).unwrap().command else { panic!("not deploy") };
    let blockchain = strings(&compose["services"]["blockchain"]["environment"]);
    assert_eq!(deploy.rpc_url.as_str().trim_end_matches('/'), blockchain["RPC_URL"]);
    assert_eq!(deploy.submitter, account(&blockchain["SIGNER_KEY"]));
    assert_eq!(deploy.admin, account(anvil::ADMIN.key));
}

#[test]
fn kubernetes_sets_what_the_services_read_and_all_they_need() {
    let (manifests, secrets) = (rendered(), documents(&read("k8s/secret.example.yaml")));
    for (name, ..) in SERVICES {
        let environment = environment_of(container(&manifests, name), &manifests, &secrets);
        assert_eq!(unread(name, &environment), Vec::<&str>::new(), "{name}");
        assert!(!environment.contains_key("PUBSUB_EMULATOR_HOST"), "{name} is for Google Cloud");
        // With the placeholders replaced nothing is missing; until then the service refuses each of them.
        let placeholders = ["SIGNER_KEY", "DISTRIBUTOR_ADDRESS", "WALLET_FACTORY_ADDRESS"];
        let refused = problems(name, &environment);
        let mut filled_in = environment;
        for variable in placeholders.into_iter().filter(|_| name == "blockchain") {
            assert!(refused.contains(variable), "{variable} is not refused: {refused}");
            filled_in.insert(variable.to_owned(), make_development()[variable].clone());
        }
        assert_eq!(problems(name, &filled_in), "", "{name}");
    }
}

#[test]
fn the_example_environment_has_every_variable_with_its_default() {
    let example = read(".env.example");
    let variables = assignments(&example);
    let named: BTreeSet<&str> = variables.keys().map(String::as_str).collect();
    let known: BTreeSet<String> = ["campaign", "blockchain", "deploy", "pause"].into_iter().flat_map(read_by).collect();
    assert_eq!(named, known.iter().map(String::as_str).collect());

    let commands = ["blockchain", "campaign", "deploy", "pause"].map(command);
    let defaults: Environment = commands.iter().flat_map(clap::Command::get_arguments).filter_map(default_of).collect();
    for (variable, default) in &defaults {
        assert_eq!(variables[variable].trim_matches('"'), default, "{variable}");
    }
    let lines: Vec<&str> = example.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[0].is_empty()) {
        assert!(pair[1].starts_with("# "), "{} has no comment", pair[1]);
    }
}

#[test]
fn a_copy_of_the_example_environment_fits_what_make_dev_starts() {
    let script = "set -a; . ./.env.example; env -0";
    let answer = Command::new("bash").args(["-euc", script]).env_clear().current_dir(workspace()).output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    let shown = String::from_utf8(answer.stdout).unwrap();
    let sourced: Environment = shown.split('\0').filter_map(assignment).filter(|(name, _)| is_known(name)).collect();
    for (name, ..) in SERVICES {
        assert_eq!(problems(name, &sourced), "", "{name}");
    }
    assert_eq!(sourced, make_development());
}

#[test]
fn contract_addresses_follow_from_the_deployer() {
    let compose = compose();
    let deployer = &strings(&compose["services"]["contracts"]["environment"])["DEPLOYER_KEY"];
    let blockchain = strings(&compose["services"]["blockchain"]["environment"]);
    for environment in [blockchain, make_development(), assignments(&read(".env.example"))] {
        for (variable, nonce) in [("DISTRIBUTOR_ADDRESS", 1), ("WALLET_FACTORY_ADDRESS", 2)] {
            assert_eq!(environment[variable], account(deployer).create(nonce).to_string(), "{variable}");
        }
    }
}

/// Starts each service with everything it needs away: its process is alive, and not ready.
#[tokio::test]
async fn probes_and_health_checks_ask_what_the_services_answer() {
    let (compose, manifests) = (compose(), rendered());
    for (name, default_port, _) in SERVICES {
        let container = container(&manifests, name);
        assert_eq!(container["ports"][0]["containerPort"], default_port);
        let probes = ["startupProbe", "livenessProbe", "readinessProbe"].map(|probe| &container[probe]["httpGet"]);
        assert!(probes.iter().all(|probe| probe["port"] == container["ports"][0]["name"]));
        let [startup, liveness, readiness] = probes.map(|probe| probe["path"].as_str().unwrap());

        let (folder, port, away) = (RunDir::temporary().unwrap(), ports::free().unwrap(), ports::free().unwrap());
        let mut environment = make_development();
        environment.insert("PUBSUB_EMULATOR_HOST".to_owned(), format!("127.0.0.1:{away}"));
        environment.insert("RPC_URL".to_owned(), format!("http://127.0.0.1:{away}"));
        environment.insert("DATABASE_URL".to_owned(), format!("sqlite://{}/a.db", folder.path().display()));
        let service = Service::new(name, port, folder.log(name), environment).unwrap();
        service.spawn().unwrap();
        // Once is not enough: a connection may be lost when the server of the start hands over to the real one.
        for alive in [startup, liveness] {
            until(SOON, alive, || service.answers(alive)).await.unwrap();
        }
        let ready = format!("{}{readiness}", service.url());
        let unready = || async { reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 503) };
        until(SOON, "503 of the readiness probe", unready).await.unwrap();

        let check: Vec<String> =
            yaml_serde::from_value(compose["services"][name]["healthcheck"]["test"].clone()).unwrap();
        let [kind, shell, option, script] = &check[..] else { panic!("{check:?}") };
        assert_eq!([kind, shell, option], ["CMD", "bash", "-c"]);
        assert!(script.contains(&format!("/{default_port} ")) && script.contains(readiness), "{script}");
        let here = script.replace(&default_port.to_string(), &port.to_string());
        let passes = |script: &str| Command::new("bash").args(["-c", script]).status().unwrap().success();
        let live = here.replace(readiness, liveness);
        until(SOON, "a health check that passes", || async { passes(&live) }).await.unwrap();
        assert!(!passes(&here), "healthy although not ready");
        service.kill9().await.unwrap();
    }
}

#[test]
fn images_are_what_the_dockerfiles_say_they_build() {
    let (compose, manifests) = (compose(), rendered());
    for (name, port, image) in SERVICES {
        let dockerfile = read(&format!("{name}/Dockerfile"));
        let has =
            |line: &str| assert!(dockerfile.lines().any(|found| found == line), "{name}/Dockerfile has no {line}");
        has(&format!("#     docker build -f {name}/Dockerfile -t {image} ."));
        has(&format!("EXPOSE {port}"));
        has(&format!("COPY --from=build /src/target/release/{name} /usr/local/bin/"));
        has(&format!("ENTRYPOINT [\"{name}\"]"));
        let listens = default_of(command(name).get_arguments().find(|a| a.get_id() == "listen_address").unwrap());
        assert!(listens.unwrap().1.ends_with(&format!(":{port}")));

        let service = &compose["services"][name];
        assert_eq!(service["image"], image);
        assert_eq!(service["build"]["dockerfile"], format!("{name}/Dockerfile"));
        assert_eq!(container(&manifests, name)["image"], format!("{image}:latest"));
        let user = &deployment(&manifests, name)["spec"]["template"]["spec"]["securityContext"];
        has(&format!("USER {}:{}", user["runAsUser"].as_u64().unwrap(), user["runAsGroup"].as_u64().unwrap()));
    }
    assert_eq!(compose["services"]["contracts"]["image"], compose["services"]["blockchain"]["image"]);
}

#[test]
fn both_images_share_their_build() {
    let [campaign, blockchain] = SERVICES.map(|(name, ..)| {
        let dockerfile = read(&format!("{name}/Dockerfile"));
        let (build, _) = dockerfile.rsplit_once("\nFROM ").unwrap();
        let instructions = build.lines().filter(|line| !line.starts_with('#'));
        instructions.map(str::to_owned).collect::<Vec<_>>()
    });
    assert_eq!(campaign, blockchain);
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain.lines().find_map(|line| line.strip_prefix("channel = ")).unwrap().trim_matches('"');
    assert!(campaign.contains(&format!("FROM rust:{version}-trixie AS chef")), "{campaign:?}");
}

#[test]
fn the_build_context_has_the_workspace_and_its_contracts() {
    let ignore = read(".dockerignore");
    let patterns: BTreeSet<&str> = ignore.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(patterns.contains("*"), "what is not named stays out");
    let cargo = read("Cargo.toml");
    let members = cargo.lines().find_map(|line| line.strip_prefix("members = [")).unwrap().trim_end_matches(']');
    let members = members.split(", ").map(|member| member.trim_matches('"'));
    for path in members.chain(["Cargo.toml", "Cargo.lock", "contracts/artifacts"]) {
        assert!(patterns.contains(&*format!("!{path}")), "{path} is not in the context");
    }
    for path in patterns.iter().filter_map(|pattern| pattern.strip_prefix('!')) {
        assert!(workspace().join(path).exists(), "{path} does not exist");
    }
}

#[test]
fn compose_publishes_the_ports_of_the_specification_to_this_machine_alone() {
    let compose = compose();
    let services = compose["services"].as_mapping().unwrap().iter();
    let published: BTreeMap<_, _> = services
        .filter_map(|(name, service)| Some((name.as_str().unwrap(), service["ports"].as_sequence()?)))
        .map(|(name, ports)| (name, ports.iter().map(|port| port.as_str().unwrap()).collect::<Vec<_>>()))
        .collect();
    let expected = [("campaign", 8080), ("blockchain", 8081), ("pubsub", 8681), ("anvil", 8545)];
    let expected = expected.map(|(name, port)| (name, format!("127.0.0.1:{port}:{port}")));
    assert_eq!(published, expected.iter().map(|(name, port)| (*name, vec![&**port])).collect());
}

#[test]
fn compose_runs_the_chain_that_the_tests_run() {
    let anvil = &compose()["services"]["anvil"];
    let lock: serde_json::Value = serde_json::from_str(&read("contracts/package-lock.json")).unwrap();
    let version = lock["packages"]["node_modules/@foundry-rs/anvil"]["version"].as_str().unwrap();
    assert_eq!(anvil["image"], format!("ghcr.io/foundry-rs/foundry:v{version}"));
    let arguments: Vec<String> = yaml_serde::from_value(anvil["command"].clone()).unwrap();
    assert!(arguments.contains(&format!("--chain-id={}", anvil::CHAIN_ID)), "{arguments:?}");
}

#[test]
fn nothing_is_killed_before_its_deadline_or_given_more_memory_than_promised() {
    let (compose, manifests) = (compose(), rendered());
    for (name, ..) in SERVICES {
        let service = &compose["services"][name];
        let environment = strings(&service["environment"]);
        let grace = service["stop_grace_period"].as_str().unwrap().strip_suffix('s').unwrap();
        assert!(grace.parse::<u64>().unwrap() > shutdown_deadline(name, &environment), "{name}");
        let mebibytes = service["mem_limit"].as_str().unwrap().strip_suffix('m').unwrap();
        assert!(mebibytes.parse::<u64>().unwrap() << 20 <= MEMORY_BYTES, "{name}");

        let environment = environment_of(container(&manifests, name), &manifests, &[]);
        let pause = container(&manifests, name)["lifecycle"]["preStop"]["exec"]["command"][1].as_str().unwrap_or("0");
        let grace = &deployment(&manifests, name)["spec"]["template"]["spec"]["terminationGracePeriodSeconds"];
        let needed = shutdown_deadline(name, &environment) + pause.parse::<u64>().unwrap();
        assert!(grace.as_u64().unwrap() > needed, "{name}");
        let megabytes = container(&manifests, name)["resources"]["limits"]["memory"].as_str().unwrap();
        let megabytes = megabytes.strip_suffix('M').unwrap();
        assert!(megabytes.parse::<u64>().unwrap() * 1_000_000 <= MEMORY_BYTES, "{name}");
    }
}

#[test]
fn replicas_stand_by_and_none_has_a_database_of_its_own() {
    let (manifests, secrets) = (rendered(), documents(&read("k8s/secret.example.yaml")));
    for (name, ..) in SERVICES {
        let spec = &deployment(&manifests, name)["spec"];
        assert!(spec["replicas"].as_u64().unwrap() >= 2, "{name}");
        // On SQLite each replica would have a file of its own.
        let environment = environment_of(container(&manifests, name), &manifests, &secrets);
        assert!(environment["DATABASE_URL"].starts_with("postgres://"), "{name}");
        let budget = find(&manifests, "PodDisruptionBudget", name);
        assert!(budget["spec"]["maxUnavailable"].as_u64() < spec["replicas"].as_u64(), "{name}");
    }
}

#[test]
fn services_and_policies_select_the_pods_they_are_for() {
    let manifests = rendered();
    for (name, port, _) in SERVICES {
        let labels = strings(&deployment(&manifests, name)["spec"]["template"]["metadata"]["labels"]);
        let selects =
            |selector: &Value| strings(selector).iter().all(|(label, value)| labels.get(label) == Some(value));
        let service = find(&manifests, "Service", name);
        assert_eq!(service["spec"]["ports"][0]["port"], port);
        assert!(selects(&service["spec"]["selector"]), "{name}");
        assert!(selects(&deployment(&manifests, name)["spec"]["selector"]["matchLabels"]), "{name}");
        assert!(selects(&find(&manifests, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"]), "{name}");
        assert!(selects(&find(&manifests, "PodDisruptionBudget", name)["spec"]["selector"]["matchLabels"]), "{name}");
        let account = &deployment(&manifests, name)["spec"]["template"]["spec"]["serviceAccountName"];
        find(&manifests, "ServiceAccount", account.as_str().unwrap());
    }
    for manifest in manifests.iter().filter(|manifest| manifest["kind"] != "Namespace") {
        assert_eq!(manifest["metadata"]["namespace"], "token-rewards");
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn documents(yaml: &str) -> Vec<Value> {
    yaml_serde::Deserializer::from_str(yaml).map(|document| Value::deserialize(document).unwrap()).collect()
}

/// docker-compose.yml, its merge keys applied.
fn compose() -> Value {
    let mut compose: Value = yaml_serde::from_str(&read("docker-compose.yml")).unwrap();
    compose.apply_merge().unwrap();
    compose
}

/// The manifests as a cluster gets them.
fn rendered() -> Vec<Value> {
    let arguments = match (on_path("kubectl"), on_path("kustomize")) {
        (Some(_), _) => ["kubectl", "kustomize"],
        (None, Some(_)) => ["kustomize", "build"],
        (None, None) => panic!("neither kubectl nor kustomize is installed: apt-get install kubernetes-client"),
    };
    let answer = Command::new(arguments[0]).args([arguments[1], "k8s"]).current_dir(workspace()).output().unwrap();
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    documents(&String::from_utf8(answer.stdout).unwrap())
}

fn find<'a>(manifests: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = manifests.iter().find(|manifest| manifest["kind"] == kind && manifest["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn deployment<'a>(manifests: &'a [Value], name: &str) -> &'a Value {
    find(manifests, "Deployment", name)
}

fn container<'a>(manifests: &'a [Value], name: &str) -> &'a Value {
    &deployment(manifests, name)["spec"]["template"]["spec"]["containers"][0]
}

/// A container's variables, those from `ConfigMap`s and from the given secrets included. Without secrets it has none of
/// theirs.
fn environment_of(container: &Value, manifests: &[Value], secrets: &[Value]) -> Environment {
    let mut environment = Environment::new();
    for source in container["envFrom"].as_sequence().unwrap() {
        let map = source["configMapRef"]["name"].as_str().unwrap();
        environment.extend(strings(&find(manifests, "ConfigMap", map)["data"]));
    }
    for variable in container["env"].as_sequence().unwrap().iter().filter(|_| !secrets.is_empty()) {
        let reference = &variable["valueFrom"]["secretKeyRef"];
        let secret = strings(&find(secrets, "Secret", reference["name"].as_str().unwrap())["stringData"]);
        let value = secret[reference["key"].as_str().unwrap()].clone();
        environment.insert(variable["name"].as_str().unwrap().to_owned(), value);
    }
    environment
}

/// A mapping of strings. Other scalars would become strings somewhere else, each tool in its own way: they are refused.
/// Compose's `${NAME:-default}` stands for its default.
fn strings(mapping: &Value) -> Environment {
    let mapping: Environment = yaml_serde::from_value(mapping.clone()).unwrap();
    let plain = |text: String| match text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
        Some(inner) => inner.split_once(":-").unwrap().1.to_owned(),
        None => text,
    };
    mapping.into_iter().map(|(name, value)| (name, plain(value))).collect()
}

/// The variables that `make run-campaign` and `make run-blockchain` set where nothing else does.
fn make_development() -> Environment {
    let makefile = read("Makefile");
    let words = makefile.split_whitespace().filter_map(|word| word.split_once("=\"$${"));
    let defaults = words.filter_map(|(name, rest)| {
        let (_, default) = rest.trim_end_matches(['"', '}', ';']).split_once(":-")?;
        Some((name.to_owned(), default.trim_end_matches(['"', '}']).to_owned()))
    });
    // These two differ between the services.
    defaults.filter(|(name, _)| name != "LISTEN_ADDRESS" && name != "DATABASE_URL").collect()
}

fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    is_name.then(|| (name.to_owned(), value.to_owned()))
}

/// Every `NAME=value` and `#NAME=value`.
fn assignments(text: &str) -> Environment {
    text.lines().filter_map(|line| assignment(line.strip_prefix('#').unwrap_or(line))).collect()
}

fn account(key: &str) -> Address {
    key.parse::<PrivateKeySigner>().unwrap().address()
}

/// The definition of a service's arguments, or of a command's.
fn command(name: &str) -> clap::Command {
    match name {
        "campaign" => campaign::Cli::command(),
        "blockchain" => Cli::command(),
        "deploy" | "pause" => Cli::command().find_subcommand(name).unwrap().clone(),
        _ => panic!("{name} is no command"),
    }
}

fn variable_of(argument: &clap::Arg) -> Option<String> {
    Some(argument.get_env()?.to_str().unwrap().to_owned())
}

fn default_of(argument: &clap::Arg) -> Option<(String, String)> {
    let default = argument.get_default_values().first()?.to_str().unwrap();
    Some((variable_of(argument)?, default.to_owned()))
}

fn read_by(name: &str) -> BTreeSet<String> {
    let logging = ["RUST_LOG".to_owned()];
    command(name).get_arguments().filter_map(variable_of).chain(logging).collect()
}

fn is_known(variable: &str) -> bool {
    ["campaign", "blockchain", "deploy", "pause"].iter().any(|name| read_by(name).contains(variable))
}

/// The variables that nobody reads.
fn unread<'a>(name: &str, environment: &'a Environment) -> Vec<&'a str> {
    let read = read_by(name);
    environment.keys().filter(|variable| !read.contains(*variable)).map(String::as_str).collect()
}

/// What the service's own parser makes of an environment; the one of this process plays no part.
fn parsed<P: CommandFactory + FromArgMatches>(
    subcommand: &[&str],
    environment: &Environment,
) -> Result<P, clap::Error> {
    let blind = |command: clap::Command| command.mut_args(|argument| argument.env(None::<&'static str>));
    let definition = P::command();
    let addressed = subcommand.iter().fold(&definition, |outer, name| outer.find_subcommand(name).unwrap());
    let given = addressed.get_arguments().filter_map(|argument| {
        Some(format!("--{}={}", argument.get_long()?, environment.get(&variable_of(argument)?)?))
    });
    let words = ["service".to_owned()].into_iter().chain(subcommand.iter().map(ToString::to_string)).chain(given);
    P::from_arg_matches(&blind(definition.clone()).mut_subcommands(blind).try_get_matches_from(words)?)
}

/// What a service finds wrong with an environment at start.
fn problems(name: &str, environment: &Environment) -> String {
    let found = match name {
        "campaign" => parsed::<campaign::Cli>(&[], environment).err().map(anyhow::Error::from),
        _ => match parsed::<Cli>(&[], environment) {
            Ok(cli) => cli.config.validate().err().map(anyhow::Error::from),
            Err(error) => Some(error.into()),
        },
    };
    found.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn shutdown_deadline(name: &str, environment: &Environment) -> u64 {
    match name {
        "campaign" => parsed::<campaign::Cli>(&[], environment).unwrap().config.shutdown_deadline_seconds,
        _ => parsed::<Cli>(&[], environment).unwrap().config.shutdown_deadline_seconds,
    }
}
