//! The attackers: pods of the guest that are root in their container, with all that a container has by default, and with a
//! share of a processor as their operator would give them.

use serde_json::{Value, json};

/// A pod that is to be made.
#[derive(Clone, Debug)]
pub(super) struct Attacker {
    name: String,
    args: Vec<String>,
    /// Of each volume.
    attributes: Vec<Value>,
    read_only: bool,
    /// A folder of the node, at `/host`, as a user of whom the node knows nothing.
    host: Option<&'static str>,
    /// Not scheduled before the gate is taken away.
    gated: bool,
}

// === impl Attacker ===

impl Attacker {
    /// With one volume, at `/v0`.
    pub(super) fn new(name: &str, args: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            attributes: vec![json!({ "signer": "foo" })],
            read_only: true,
            host: None,
            gated: false,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// So many volumes, all with the attributes of the first.
    pub(super) fn volumes(mut self, count: usize) -> Self {
        self.attributes = vec![self.attributes.swap_remove(0); count];
        self
    }

    /// Of the one volume.
    pub(super) fn attributes(self, attributes: Value) -> Self {
        self.volumes_with(vec![attributes])
    }

    pub(super) fn volumes_with(mut self, attributes: Vec<Value>) -> Self {
        self.attributes = attributes;
        self
    }

    pub(super) fn writable(mut self) -> Self {
        self.read_only = false;
        self
    }

    pub(super) fn host(mut self, folder: &'static str) -> Self {
        self.host = Some(folder);
        self
    }

    pub(super) fn gated(mut self) -> Self {
        self.gated = true;
        self
    }

    /// As the API server wants it. The mounts do not say that they are read-only: that is for the volume to enforce.
    pub(super) fn object(&self) -> Value {
        let mut mounts: Vec<_> = (0..self.attributes.len())
            .map(|number| json!({ "name": volume(number), "mountPath": format!("/v{number}") }))
            .collect();
        let of_ours = |(number, attributes)| {
            json!({
                "name": volume(number),
                "csi": { "driver": "csi.ensign.mesh", "readOnly": self.read_only, "volumeAttributes": attributes },
            })
        };
        let mut volumes: Vec<_> = self.attributes.iter().enumerate().map(of_ours).collect();
        let mut user = json!({ "runAsUser": 0 });
        if let Some(folder) = self.host {
            mounts.push(json!({ "name": "host", "mountPath": "/host" }));
            volumes.push(json!({ "name": "host", "hostPath": { "path": folder } }));
            user = json!({ "runAsUser": 1337, "runAsGroup": 1337 });
        }
        let mut spec = json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": user,
            "containers": [{
                "name": "attacker",
                "image": ensign_testbed::node::GUEST,
                "imagePullPolicy": "Never",
                "args": self.args,
                "resources": { "limits": { "cpu": "200m", "memory": "256Mi" }, "requests": { "cpu": "1m", "memory": "1Mi" } },
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        });
        if self.gated {
            spec["schedulingGates"] = json!([{ "name": GATE }]);
        } else {
            spec["nodeName"] = json!("node1");
        }
        json!({ "metadata": { "name": self.name }, "spec": spec })
    }
}

/// The first has the name that [`crate::pod::volume`] knows.
fn volume(number: usize) -> String {
    if number == 0 {
        "identity".to_owned()
    } else {
        format!("v{number}")
    }
}

const GATE: &str = "ensign.mesh/not-yet";
