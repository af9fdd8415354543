{{/* Namespace of the leader's Lease. */}}
{{- define "ensign.leases" -}}
{{ .Values.app.controller.leaderElectionNamespace | default .Release.Namespace }}
{{- end -}}

{{/* The RA's settings that the chart's values amount to, by their variables, as JSON; texts all. */}}
{{- define "ensign.raOwnSettings" -}}
{{- $ra := include "ensign.ra" . }}
{{- $app := .Values.app }}
{{- $data := dict
  "ENSIGN_RA_LOG_LEVEL" $app.logLevel
  "ENSIGN_RA_METRICS_PORT" $app.metrics.port
  "ENSIGN_RA_SERVING_TLS_MIN_VERSION" $app.tls.servingTLSMinVersion
  "ENSIGN_RA_SERVING_TLS_CIPHER_SUITES" (join "," $app.tls.servingTLSCipherSuites)
  "ENSIGN_RA_SERVING_TLS_CURVE_PREFERENCES" (join "," $app.tls.servingTLSCurvePreferences)
  "ENSIGN_RA_READINESS_PROBE_PORT" $app.readinessProbe.port
  "ENSIGN_RA_READINESS_PROBE_PATH" $app.readinessProbe.path
  "ENSIGN_RA_GRPC_ADDR" (printf "%s:%v" $app.server.serving.address $app.server.serving.port)
  "ENSIGN_RA_CLUSTER_ID" $app.server.clusterID
  "ENSIGN_RA_ENABLE_CLIENT_CERT_AUTHENTICATOR" $app.server.authenticators.enableClientCert
  "ENSIGN_RA_ISTIO_NAMESPACE" $app.istio.namespace
  "ENSIGN_RA_CONFIGMAP_NAMESPACE_SELECTOR" $app.controller.configmapNamespaceSelector
  "ENSIGN_RA_DISABLE_KUBERNETES_CLIENT_RATE_LIMITER" $app.controller.disableKubernetesClientRateLimiter
  "ENSIGN_RA_MAX_CONCURRENT_RECONCILES" $app.controller.maxConcurrentReconciles
  "CA_TRUSTED_NODE_ACCOUNTS" $app.server.caTrustedNodeAccounts
  "ENSIGN_RA_POLICY_FILE" (ternary "/etc/ensign/policy/policy.yaml" "" (ne .Values.ra.policy ""))
}}
{{- if not (get .Values.ra.config "ENSIGN_RA_INSTALLATION") }}
{{- $_ := set $data "ENSIGN_RA_INSTALLATION" (include "ensign.installation" .) }}
{{- end }}
{{- if ne .Values.agent.csi.tokenAudience "istio-ca" }}
{{- $_ := set $data "TOKEN_AUDIENCES" .Values.agent.csi.tokenAudience }}
{{- end }}
{{- if and $app.controller.configmapNamespaceSelector .Values.agent.enabled }}
{{- $_ := set $data "ENSIGN_RA_AGENT_NAMESPACE" (include "ensign.agentNamespace" .) }}
{{- end }}
{{- /* A policy file and Istio's configuration may say it themselves. */ -}}
{{- if or (include "ensign.oneIssuer" .) (ne $app.tls.trustDomain "cluster.local") }}
{{- $_ := set $data "ENSIGN_RA_TRUST_DOMAIN" $app.tls.trustDomain }}
{{- end }}
{{- if include "ensign.oneIssuer" . }}
{{- $annotations := list }}
{{- range $app.certmanager.additionalAnnotations }}{{ $annotations = append $annotations (printf "%s=%s" .name .value) }}{{ end }}
{{- $runtime := include "ensign.runtimeConfigMap" . }}
{{- $data = merge $data (dict
  "ENSIGN_RA_CERTIFICATE_NAMESPACE" $app.certmanager.namespace
  "ENSIGN_RA_ISSUER_ENABLED" $app.certmanager.issuer.enabled
  "ENSIGN_RA_ISSUER_NAME" $app.certmanager.issuer.name
  "ENSIGN_RA_ISSUER_KIND" $app.certmanager.issuer.kind
  "ENSIGN_RA_ISSUER_GROUP" $app.certmanager.issuer.group
  "ENSIGN_RA_RUNTIME_ISSUANCE_CONFIG_MAP_NAME" $runtime
  "ENSIGN_RA_RUNTIME_ISSUANCE_CONFIG_MAP_NAMESPACE" (ternary .Release.Namespace "" (ne $runtime ""))
  "ENSIGN_RA_CERTIFICATE_REQUEST_ADDITIONAL_ANNOTATIONS" (join "," $annotations)
  "ENSIGN_RA_PRESERVE_CERTIFICATE_REQUESTS" $app.certmanager.preserveCertificateRequests
  "ENSIGN_RA_ROOT_CA_FILE" ($app.tls.rootCAFile | default (ternary "/etc/ensign/roots/ca.pem" "" (hasKey .Values.ra.roots "ca.pem")))
  "ENSIGN_RA_MAX_CLIENT_CERTIFICATE_DURATION" $app.server.maxCertificateDuration
) }}
{{- end }}
{{- $service := printf "%s.%s.svc" $ra .Release.Namespace }}
{{- $names := concat $app.tls.certificateDNSNames (list $service (printf "%s.cluster.local" $service)) | uniq | join "," }}
{{- $from := include "ensign.servingFrom" . }}
{{- if eq $from "issuer" }}
{{- $data = merge $data (dict
  "ENSIGN_RA_SERVING_FROM" "cert-manager"
  "ENSIGN_RA_SERVING_SECRET" (printf "%s-serving" $ra)
  "ENSIGN_RA_SERVING_DNS_NAMES" $names
  "ENSIGN_RA_SERVING_CERTIFICATE_DURATION" $app.tls.certificateDuration
  "ENSIGN_RA_SERVING_SIGNATURE_ALGORITHM" $app.server.serving.signatureAlgorithm
  "ENSIGN_RA_SERVING_CERTIFICATE_KEY_SIZE" ($app.server.serving.certificateKeySize | default "")
) }}
{{- else if eq $from "secret" }}
{{- $data = merge $data (dict
  "ENSIGN_RA_SERVING_CA_SECRET" (printf "%s-serving" $ra)
  "ENSIGN_RA_SERVING_DNS_NAMES" $names
) }}
{{- end }}
{{- if include "ensign.istiodCertificate" . }}
{{- $annotations := list }}
{{- range $app.certmanager.additionalAnnotations }}{{ $annotations = append $annotations (printf "%s=%s" .name .value) }}{{ end }}
{{- $data = merge $data (dict
  "ENSIGN_RA_ISTIOD_CERT_ENABLED" "true"
  "ENSIGN_RA_ISTIOD_CERT_DURATION" $app.tls.istiodCertificateDuration
  "ENSIGN_RA_ISTIOD_CERT_RENEW_BEFORE" $app.tls.istiodCertificateRenewBefore
  "ENSIGN_RA_ISTIOD_CERT_KEY_ALGORITHM" $app.tls.istiodPrivateKeyAlgorithm
  "ENSIGN_RA_ISTIOD_CERT_KEY_SIZE" ($app.tls.istiodPrivateKeySize | default "")
  "ENSIGN_RA_ISTIOD_CERT_ADDITIONAL_DNS_NAMES" (join "," $app.tls.istiodAdditionalDNSNames)
  "ENSIGN_RA_ISTIOD_CERT_ADDITIONAL_ANNOTATIONS" (join "," $annotations)
  "ENSIGN_RA_ISTIOD_CERT_ISTIO_REVISIONS" (join "," $app.istio.revisions)
) }}
{{- end }}
{{- $texts := dict }}
{{- range $name, $value := $data }}
{{- if ne (toString $value) "" }}{{ $_ := set $texts $name (toString $value) }}{{ end }}
{{- end }}
{{- toJson $texts }}
{{- end -}}

{{/* All settings of the RA, as lines of a ConfigMap. */}}
{{- define "ensign.raSettings" -}}
{{- $data := include "ensign.raOwnSettings" . | fromJson }}
{{- range $name, $value := .Values.ra.config }}{{ $_ := set $data $name (toString $value) }}{{ end }}
{{- toYaml $data }}
{{- end -}}

{{/* The agent's settings that the chart's values amount to, by their variables, as JSON. */}}
{{- define "ensign.agentOwnSettings" -}}
{{- $data := dict "TRUST_DOMAIN" .Values.app.tls.trustDomain "ISTIO_META_CLUSTER_ID" .Values.app.server.clusterID }}
{{- if .Values.ra.enabled }}
{{- $_ := set $data "CA_ADDR" (printf "%s.%s.svc:%v" (include "ensign.ra" .) .Release.Namespace .Values.service.port) }}
{{- end }}
{{- toJson $data }}
{{- end -}}

{{/* All settings of the agent, as lines of a ConfigMap. */}}
{{- define "ensign.agentSettings" -}}
{{- $data := include "ensign.agentOwnSettings" . | fromJson }}
{{- range $name, $value := .Values.agent.config }}{{ $_ := set $data $name (toString $value) }}{{ end }}
{{- toYaml $data }}
{{- end -}}
