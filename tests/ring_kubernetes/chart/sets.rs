//! Value sets: each a way to install the chart.

use serde_json::{Value, json};

/// Every value of istio-csr's chart that can be rendered, none with istio-csr's or our default.
pub(super) fn istio_csr() -> Value {
    json!({
        "nameOverride": "cert-manager-istio-csr",
        "replicaCount": 3,
        "imageRegistry": "registry.example", "imageNamespace": "mesh",
        "image": {
            "name": "authority", "tag": "2", "digest": format!("sha256:{}", "0".repeat(64)), "pullPolicy": "Always",
        },
        "imagePullSecrets": [{ "name": "registry" }],
        "service": { "type": "NodePort", "port": 8443, "nodePort": 30443 },
        "app": {
            "logLevel": 3, "logFormat": "text",
            "metrics": { "port": 9500, "service": { "enabled": true, "type": "ClusterIP", "servicemonitor": {
                "enabled": true, "prometheusInstance": "main", "interval": "20s", "scrapeTimeout": "7s",
                "labels": { "team": "mesh" },
            } } },
            "runtimeConfiguration": {
                "create": true, "name": "the-issuer",
                "issuer": { "name": "other", "kind": "ClusterIssuer", "group": "example.com" },
            },
            "readinessProbe": { "port": 6161, "path": "/ready" },
            "certmanager": {
                "namespace": "requests", "preserveCertificateRequests": true,
                "additionalAnnotations": [{ "name": "example.com/a", "value": "1" }, { "name": "b", "value": "2" }],
                "issuer": { "enabled": true, "name": "ca", "kind": "ClusterIssuer", "group": "cert-manager.io" },
            },
            "tls": {
                "trustDomain": "example.org", "rootCAFile": "/roots/ca.pem", "certificateDuration": "2h",
                "certificateDNSNames": ["csr.example.org"], "istiodCertificateEnable": "dynamic",
                "istiodCertificateDuration": "3h", "istiodCertificateRenewBefore": "40m",
                "istiodPrivateKeyAlgorithm": "RSA", "istiodPrivateKeySize": 3072,
                "istiodAdditionalDNSNames": ["istiod.example.org"], "servingTLSMinVersion": "VersionTLS12",
                "servingTLSCipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], "servingTLSCurvePreferences": ["CurveP256", "X25519"],
            },
            "istio": { "revisions": ["default", "canary"], "namespace": "mesh-system" },
            "server": {
                "clusterID": "one", "maxCertificateDuration": "5h", "caTrustedNodeAccounts": "mesh-system/ztunnel",
                "serving": { "address": "0.0.0.0", "port": 7443, "certificateKeySize": 384, "signatureAlgorithm": "ECDSA" },
                "authenticators": { "enableClientCert": true },
            },
            "controller": {
                "leaderElectionNamespace": "mesh-system", "configmapNamespaceSelector": "mesh=yes",
                "disableKubernetesClientRateLimiter": true, "maxConcurrentReconciles": 4,
            },
        },
        "deploymentLabels": { "a": "1" }, "deploymentAnnotations": { "b": "2" },
        "podLabels": { "c": "3" }, "podAnnotations": { "d": "4" }, "commonLabels": { "e": "5" },
        "volumes": [{ "name": "more", "secret": { "secretName": "root", "optional": true } }],
        "volumeMounts": [{ "name": "more", "mountPath": "/roots", "readOnly": true }],
        "resources": { "requests": { "cpu": "7m" }, "limits": { "memory": "100Mi" } },
        "priorityClassName": "system-cluster-critical",
        "affinity": { "nodeAffinity": {} },
        "tolerations": [{ "key": "mesh", "operator": "Exists" }],
        "topologySpreadConstraints": [{
            "maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {},
        }],
        "nodeSelector": { "disk": "fast" },
        "securityContext": { "runAsUser": 1000 },
        "extraObjects": ["{apiVersion: v1, kind: ConfigMap, metadata: {name: extra, namespace: {{ .Release.Namespace }}}}"],
        "podDisruptionBudget": { "enabled": true, "minAvailable": 2, "maxUnavailable": 1 },
        "global": { "anything": "goes" },
        "agent": { "enabled": false },
    })
}

/// Signers of the Kubernetes CSR API, chosen by a policy file; a quota, a budget of nothing, everything in one namespace.
pub(super) fn policy() -> Value {
    json!({
        "app": {
            "certmanager": { "issuer": { "enabled": false } },
            "server": { "caTrustedNodeAccounts": "istio-system/ztunnel" },
            "controller": { "configmapNamespaceSelector": "mesh=yes" },
        },
        "ra": {
            "policy": "apiVersion: ensign.mesh/v1\ntrustDomain: example.org\n",
            "roots": { "foo.pem": "-----BEGIN CERTIFICATE-----\n", "bar.pem": "-----BEGIN CERTIFICATE-----\n" },
            "config": {
                "ENSIGN_RA_AUTHN": "informer", "ENSIGN_RA_TOKEN_ISSUER": "https://kubernetes.default.svc",
                "ENSIGN_RA_REMOTE_CLUSTERS": true,
                "ENSIGN_RA_CLUSTER_TRUST_BUNDLE": "istio.io:istiod-ca:root-cert",
            },
        },
        "rbac": { "signers": ["clusterissuers.cert-manager.io/foo", "issuers.cert-manager.io/istio-system.ca"], "issuers": ["ca"] },
        "admission": {
            "meshIssuers": ["ClusterIssuer.cert-manager.io/foo"], "writers": ["system:serviceaccount:a:b"],
            "certManagerAccount": "system:serviceaccount:c:d",
        },
        "networkPolicy": { "enabled": true, "scrapers": [{ "namespaceSelector": { "matchLabels": { "a": "b" } } }] },
        "podDisruptionBudget": { "maxUnavailable": 0 },
        "service": { "type": "LoadBalancer" },
        "agent": {
            "namespace": { "name": "", "create": false },
            "csi": { "tokenExpirationSeconds": 600, "tokenAudience": "mesh" },
            "kubeletDir": "/data/kubelet", "updateStrategy": { "type": "OnDelete" },
            "resourceQuota": { "enabled": true, "pods": 7 }, "drainTimeoutSeconds": 30,
            "config": { "SECRET_TTL": "12h" },
            "podMonitor": { "enabled": true, "labels": { "team": "mesh" } },
            "podLabels": { "c": "3" }, "podAnnotations": { "d": "4" }, "seLinuxOptions": { "level": "s0" },
            "affinity": { "nodeAffinity": {} },
        },
        "commonLabels": { "e": "5" },
    })
}

/// Signers as Istio's own configuration names them.
pub(super) fn istio() -> Value {
    json!({
        "ra": { "config": {
            "EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API", "CERT_SIGNER_DOMAIN": "clusterissuers.cert-manager.io",
            "PILOT_CERT_PROVIDER": "k8s.io/clusterissuers.cert-manager.io/istio-system",
        } },
        "rbac": { "signers": ["clusterissuers.cert-manager.io/istio-system"] },
        "admission": { "enabled": false },
        "app": { "certmanager": { "issuer": { "enabled": false } }, "metrics": { "service": { "enabled": false } } },
    })
}

/// The agent alone, with istiod as its authority.
pub(super) fn agent_only() -> Value {
    json!({
        "ra": { "enabled": false },
        "agent": {
            "config": { "CA_ADDR": "istiod.istio-system.svc:15012" }, "uninstallCheck": false,
            "image": { "repository": "registry.example/agent", "digest": format!("sha256:{}", "1".repeat(64)) },
            "updateStrategy": { "rollingUpdate": { "maxSurge": "10%" } },
        },
        "networkPolicy": { "enabled": true, "authorityPorts": [15012] },
    })
}

/// Each with its name.
pub(super) fn all() -> [(&'static str, Value); 5] {
    [
        ("defaults", json!({})),
        ("istio-csr", istio_csr()),
        ("policy", policy()),
        ("istio", istio()),
        ("agent alone", agent_only()),
    ]
}
