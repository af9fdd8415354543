//! Settings, from the command line to checked values. The environment of the test run is not touched.

use ensign_pki::KeyType;

use super::*;
use crate::source;

fn with(flags: &[&str]) -> Result<Config, String> {
    let fixed = ["ensign-agent", "--workloads-file", "/etc/w.yaml"];
    match load(fixed.iter().chain(flags)) {
        Ok(Request::Run(config)) => Ok(*config),
        Ok(Request::Print(text)) => Err(text),
        Ok(Request::Command(command)) => panic!("{command:?}"),
        Err(error) => Err(error.to_string()),
    }
}

fn fixed(config: Config) -> source::fixed::Config {
    match config.source {
        source::Config::Fixed(fixed) => fixed,
        source::Config::Csi(csi) => panic!("{csi:?}"),
    }
}

fn csi(flags: &[&str]) -> Result<source::csi::Config, String> {
    let flags: Vec<_> = ["ensign-agent", "--source=csi"].iter().chain(flags).collect();
    match load(flags) {
        Ok(Request::Run(config)) => match config.source {
            source::Config::Csi(csi) => Ok(csi),
            source::Config::Fixed(fixed) => panic!("{fixed:?}"),
        },
        Ok(Request::Print(text)) => Err(text),
        Ok(Request::Command(command)) => panic!("{command:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn the_csi_source_needs_the_nodes_name_and_no_workloads_file() {
    let error = csi(&[]).unwrap_err();
    assert!(error.contains("--node-name (NODE_NAME): is not set"), "{error}");
    let config = csi(&["--node-name=node1"]).unwrap();
    assert_eq!(config.kubelet_dir, PathBuf::from("/var/lib/kubelet"));
    assert_eq!(config.state_dir, PathBuf::from("/run/ensign"));
    assert_eq!(config.key_types, [KeyType::P256, KeyType::P384]);
    assert_eq!(config.audience, "istio-ca");
}

#[test]
fn paths_of_the_csi_source_are_absolute_and_plain() {
    let config = csi(&["--node-name=n", "--kubelet-dir=/data//kubelet/"]).unwrap();
    assert_eq!(config.kubelet_dir.to_str(), Some("/data/kubelet"));
    let error = csi(&["--node-name=n", "--kubelet-dir=kubelet", "--state-dir=/run/../etc"]).unwrap_err();
    assert!(
        error.contains("--kubelet-dir") && error.contains("--state-dir"),
        "{error}"
    );
}

#[test]
fn files_on_the_way_to_kubelets_pods_are_told_since_the_fence_hides_their_next_version() {
    let load = |flag: &str| {
        let flags = [
            "ensign-agent",
            "--source=csi",
            "--node-name=n",
            "--kubelet-dir=/data/kubelet",
            flag,
        ];
        match load(flags) {
            Ok(Request::Run(config)) => Ok(config.behind_the_fence),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    };
    for folder in ["", "/data", "/data/kubelet", "/data/kubelet/pods"] {
        let file = format!("{folder}/root.pem");
        for flag in ["ca-root-ca=", "pinned-bundles=foo="] {
            assert_eq!(load(&format!("--{flag}{file}")).unwrap(), [PathBuf::from(&file)]);
        }
        let error = load(&format!("--addresses-file={file}")).unwrap_err();
        assert!(error.contains(&file) && error.contains("fence"), "{error}");
    }
    for folder in ["/data/roots", "/data/kubelet/other", "/var/run/secrets/istio"] {
        for flag in ["ca-root-ca=", "pinned-bundles=foo=", "addresses-file="] {
            assert!(
                load(&format!("--{flag}{folder}/x")).unwrap().is_empty(),
                "{flag}{folder}"
            );
        }
    }
    let fixed = with(&["--ca-root-ca=/root.pem", "--addresses-file=/addresses"]).unwrap();
    assert!(fixed.behind_the_fence.is_empty(), "without kubelet there is no fence");
}

#[test]
fn kinds_of_keys_for_volumes_are_known_ones() {
    let error = csi(&["--node-name=n", "--csi-key-types=P-256,P-512"]).unwrap_err();
    assert!(error.contains("--csi-key-types"), "{error}");
    assert!(
        csi(&["--node-name=n", "--csi-key-types="])
            .unwrap()
            .key_types
            .is_empty()
    );
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = with(&[]).unwrap();
    assert_eq!(config.rotation.ttl, Duration::from_hours(24));
    assert_eq!(config.rotation.schedule, Schedule::default());
    assert_eq!(fixed(config.clone()).key_type, KeyType::P256);
    assert_eq!(config.ca.address.to_string(), "ensign-ra.ensign-system.svc:443");
    assert!(config.status_addr.ip().is_loopback());
    assert!(config.pins.is_empty() && config.rotation.default_signer.is_none());
}

#[test]
fn all_mistakes_are_told_at_once_with_flag_and_variable() {
    let flags = [
        "--ca-addr=istiod.istio-system.svc:15010",
        "--secret-ttl=24",
        "--secret-grace-period-ratio=1.5",
    ];
    let more = [
        "--status-addr=0.0.0.0:1",
        "--pinned-bundles=foo",
        "--log-level=loud",
        "--ca-root-ca=SYSTEM",
    ];
    let error = with(&[&flags[..], &more[..]].concat()).unwrap_err();
    for part in [
        "--ca-addr (CA_ADDR)",
        "plaintext",
        "--secret-ttl (SECRET_TTL)",
        "--secret-grace-period-ratio (SECRET_GRACE_PERIOD_RATIO)",
        "--status-addr (ENSIGN_STATUS_ADDR)",
        "--pinned-bundles (ENSIGN_PINNED_BUNDLES)",
        "--log-level (ENSIGN_LOG_LEVEL)",
        "--ca-root-ca (CA_ROOT_CA)",
        "7 mistake(s)",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_missing_workloads_file_is_a_mistake() {
    let error = load(["ensign-agent"]).unwrap_err().to_string();
    assert!(
        error.contains("--workloads-file (ENSIGN_WORKLOADS_FILE): is not set"),
        "{error}"
    );
}

#[test]
fn kinds_of_keys_are_spelled_as_in_istio() {
    assert_eq!(fixed(with(&["--ecc-curve=P384"]).unwrap()).key_type, KeyType::P384);
    assert!(with(&["--ecc-curve=P521"]).unwrap_err().contains("P256 or P384"));
    let rsa = with(&["--ecc-signature-algorithm="]);
    if KeyType::Rsa2048.ensure_generatable().is_ok() {
        assert_eq!(fixed(rsa.unwrap()).key_type, KeyType::Rsa2048);
    } else {
        assert!(
            rsa.unwrap_err()
                .contains("--ecc-signature-algorithm (ECC_SIGNATURE_ALGORITHM)")
        );
    }
}

#[test]
fn pins_name_a_signer_or_the_default_one() {
    let config = with(&["--pinned-bundles=foo=/a.pem,=/b.pem"]).unwrap();
    let pins: Vec<_> = config
        .pins
        .iter()
        .map(|(signer, _)| signer.as_ref().map(SignerName::as_str))
        .collect();
    assert_eq!(pins, [Some("foo"), None]);
    assert!(
        with(&["--pinned-bundles=foo=/a", "--pinned-bundles=foo=/b"])
            .unwrap_err()
            .contains("twice")
    );
}

#[test]
fn print_config_shows_what_is_in_effect_and_no_secret() {
    let text = with(&["--print-config"]).unwrap_err();
    assert!(text.contains("\"secret-ttl\"") && text.contains("SECRET_TTL"), "{text}");
    let text = with(&["--print-config", "--cluster-id=eyJhbGciOi.eyJz.c2ln"]).unwrap_err();
    assert!(text.contains("--cluster-id") && !text.contains("eyJhbGciOi"), "{text}");
}

/// The table of docs/agent-configuration.md, as the flags say it.
fn table() -> String {
    let row = |argument: &clap::Arg| {
        let flag = format!("`--{}`", argument.get_long()?);
        let variable = argument
            .get_env()
            .map_or(String::new(), |name| format!("`{}`", name.to_string_lossy()));
        let defaults: Vec<_> = argument
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy())
            .collect();
        let default = if defaults.is_empty() || !argument.get_action().takes_values() {
            String::new()
        } else {
            format!("`{}`", defaults.join(","))
        };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        Some(format!("| {flag} | {variable} | {default} | {help} |\n"))
    };
    let command = settings::command::<Args>();
    let rows: String = command.get_arguments().filter_map(row).collect();
    format!("| flag | variable | default | meaning |\n|---|---|---|---|\n{rows}")
}

#[test]
fn the_documented_table_is_the_one_in_effect() {
    let page = include_str!("../../docs/agent-configuration.md");
    assert!(
        page.contains(&table()),
        "docs/agent-configuration.md must hold this table:\n{}",
        table()
    );
}

fn command(words: &[&str]) -> Result<Command, String> {
    match load(["ensign-agent"].iter().chain(words)) {
        Ok(Request::Command(command)) => Ok(*command),
        Ok(other) => panic!("{other:?}"),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn a_command_asks_for_no_settings_of_the_agent() {
    let Ok(Command::Status { address, json }) = command(&["status"]) else {
        panic!("not the status")
    };
    assert_eq!((address.to_string().as_str(), json), ("127.0.0.1:9403", false));
    let asked = command(&["explain", "web-0", "-n", "foo", "--context", "c", "-o", "json"]).unwrap();
    let Command::Explain {
        login,
        namespace,
        pod,
        json: true,
        ..
    } = asked
    else {
        panic!("{asked:?}")
    };
    assert_eq!(
        (namespace.as_deref(), pod.as_str(), login.context.as_deref()),
        (Some("foo"), "web-0", Some("c"))
    );
}

#[test]
fn the_settings_count_for_the_preflight_of_this_machine_alone() {
    let error = command(&["preflight", "--local", "--source=csi"]).unwrap_err();
    assert!(error.contains("--node-name (NODE_NAME): is not set"), "{error}");
    let local = command(&["preflight", "--local", "--source=csi", "--node-name=n"]).unwrap();
    assert!(matches!(local, Command::PreflightLocal { .. }), "{local:?}");
    let asked = [
        "preflight",
        "--cluster",
        "--service-account=foo/web",
        "--signer=a",
        "--signer=b",
    ];
    let Ok(Command::PreflightCluster { signers, .. }) = command(&asked) else {
        panic!("not of the cluster")
    };
    assert_eq!(signers, ["a", "b"]);
}

#[test]
fn a_preflight_is_of_one_place_and_a_signer_is_asked_for_somebody() {
    for wrong in [
        &["preflight"][..],
        &["preflight", "--local", "--cluster"],
        &["preflight", "--cluster", "--signer=a"],
    ] {
        assert!(command(wrong).is_err(), "{wrong:?}");
    }
}
