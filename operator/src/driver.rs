//! Our CSIDriver object: what kubelet is told of the driver, and what must be true of it.

use ensign_daemon::Finding;
use k8s_openapi::api::storage::v1::CSIDriver;
use kube::Api;

use crate::access::{Access, Looked};

/// The driver's name, in CSIDriver objects and pods.
pub const DRIVER: &str = "csi.ensign.mesh";

/// What counts of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Kubelet says whose volume it is.
    pub pod_info: bool,
    /// Kubelet comes again with a fresh token.
    pub republish: bool,
    /// Inline volumes.
    pub ephemeral: bool,
    /// Audiences of the tokens that kubelet brings.
    pub audiences: Vec<String>,
}

/// Reads it.
pub async fn look(access: &Access) -> Looked<Driver> {
    access.one(Api::<CSIDriver>::all(access.client()), DRIVER).await.map(of)
}

fn of(object: CSIDriver) -> Driver {
    let spec = object.spec;
    let modes = spec.volume_lifecycle_modes.unwrap_or_default();
    let tokens = spec.token_requests.unwrap_or_default();
    Driver {
        pod_info: spec.pod_info_on_mount.unwrap_or(false),
        republish: spec.requires_republish.unwrap_or(false),
        ephemeral: modes.iter().any(|mode| mode == "Ephemeral"),
        audiences: tokens.into_iter().map(|token| token.audience).collect(),
    }
}

/// What is wrong with it, for agents that look for tokens of this audience, if that is known.
pub fn judge(driver: &Looked<Driver>, audience: Option<&str>) -> Vec<Finding> {
    let install = "install deploy/csidriver.yaml (or the chart) as it is; immutable fields need a new object";
    let driver = match driver {
        Looked::There(driver) => driver,
        Looked::Missing => {
            let cause = format!("there is no CSIDriver {DRIVER}, so kubelet hands the agent neither pod nor token");
            return vec![Finding::wrong("no_csidriver", cause, install)];
        }
        Looked::Unreadable(why) => {
            let cause = format!("the CSIDriver {DRIVER} cannot be read: {why}");
            return vec![Finding::unknown(
                "unreadable",
                cause,
                "ask with an account that may `get` CSIDrivers",
            )];
        }
    };
    let wants = [
        (driver.pod_info, "podInfoOnMount: true".to_owned()),
        (driver.republish, "requiresRepublish: true".to_owned()),
        (driver.ephemeral, "volumeLifecycleModes: [Ephemeral]".to_owned()),
    ];
    let missing: Vec<String> = wants
        .into_iter()
        .filter(|(set, _)| !set)
        .map(|(_, wanted)| wanted)
        .collect();
    let mut findings = Vec::new();
    if !missing.is_empty() {
        let cause = format!("the CSIDriver {DRIVER} lacks {}", missing.join(", "));
        findings.push(Finding::wrong("csidriver", cause, install));
    }
    if let Some(audience) = audience
        && !driver.audiences.iter().any(|known| known == audience)
    {
        let cause = format!(
            "the CSIDriver {DRIVER} asks for tokens of audience {:?}, the agents look for {audience:?}",
            driver.audiences
        );
        let fix =
            "make tokenRequests of the CSIDriver and --token-audience (ENSIGN_TOKEN_AUDIENCE) of the agents the same";
        findings.push(Finding::wrong("audience", cause, fix));
    }
    findings
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// As deploy/csidriver.yaml has it.
    pub(crate) fn shipped() -> Driver {
        let text = include_str!("../../deploy/csidriver.yaml");
        of(serde_saphyr::from_str(text).unwrap())
    }

    fn codes(driver: &Looked<Driver>) -> Vec<&'static str> {
        judge(driver, Some("istio-ca"))
            .into_iter()
            .map(|finding| finding.code)
            .collect()
    }

    #[test]
    fn the_one_we_ship_is_right_and_each_change_is_found() {
        let right = shipped();
        assert_eq!(codes(&Looked::There(right.clone())), [""; 0]);
        assert_eq!(codes(&Looked::Missing), ["no_csidriver"]);
        assert_eq!(codes(&Looked::Unreadable("no".to_owned())), ["unreadable"]);
        for change in [
            |driver: &mut Driver| driver.pod_info = false,
            |driver: &mut Driver| driver.republish = false,
            |driver: &mut Driver| driver.ephemeral = false,
        ] {
            let mut driver = right.clone();
            change(&mut driver);
            assert_eq!(codes(&Looked::There(driver)), ["csidriver"]);
        }
        let mut driver = right;
        driver.audiences = vec!["vault".to_owned()];
        assert_eq!(codes(&Looked::There(driver)), ["audience"]);
    }
}
