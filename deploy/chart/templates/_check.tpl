{{/* Refuses values that fit the schema and not each other, or that have no meaning here: all at once, each with what to do. */}}
{{- define "ensign.check" -}}
{{- $wrong := list }}
{{- $app := .Values.app }}
{{- $ra := .Values.ra }}
{{- $agent := .Values.agent }}
{{- if .Values.image.registry }}
{{- $wrong = append $wrong "image.registry: istio-csr puts it before a name that has a registry already; use imageRegistry" }}
{{- end }}
{{- if ne $app.metrics.service.type "ClusterIP" }}
{{- $wrong = append $wrong "app.metrics.service.type: the Service for scrapers is headless, which no later value could change; for another one use extraObjects" }}
{{- end }}
{{- if ne (len $app.istio.revisions) (len (uniq $app.istio.revisions)) }}
{{- $wrong = append $wrong (printf "app.istio.revisions: %s names a revision twice; name each once" (join ", " $app.istio.revisions)) }}
{{- end }}
{{- if not (has .Values.global.platform (list "" "openshift" "gke")) }}
{{- $wrong = append $wrong (printf "global.platform: %s is no platform that needs something of its own; use openshift, gke or nothing" .Values.global.platform) }}
{{- end }}
{{- if and (not $ra.enabled) (not $agent.enabled) }}
{{- $wrong = append $wrong "ra.enabled and agent.enabled: both are false, which installs nothing; enable one" }}
{{- end }}
{{- if $ra.enabled }}
{{- if and (has "issuer-reference" .Values.rbac.modes) (not .Values.rbac.issuers) }}
{{- $wrong = append $wrong "rbac.modes: issuer-reference without a name would be for every issuer of app.certmanager.namespace; name them in rbac.issuers" }}
{{- end }}
{{- if hasKey $ra.config "ENSIGN_RA_DRAIN_TIMEOUT" }}
{{- $wrong = append $wrong "ra.config.ENSIGN_RA_DRAIN_TIMEOUT: kubelet must know it, too; use ra.drainTimeoutSeconds" }}
{{- end }}
{{- if $ra.existingConfigMap }}
{{- if or $ra.config $ra.policy $ra.roots }}
{{- $wrong = append $wrong "ra.existingConfigMap: it holds all settings of the RA; move ra.config there, and ra.policy and ra.roots to ConfigMaps of your own (docs/install.md)" }}
{{- end }}
{{- else }}
{{- $elsewhere := "" }}
{{- if or $ra.policy (get $ra.config "ENSIGN_RA_POLICY_FILE") }}{{ $elsewhere = "the policy file" }}{{ end }}
{{- if include "ensign.istioSigners" . }}{{ $elsewhere = "Istio's own configuration" }}{{ end }}
{{- if and $elsewhere (include "ensign.oneIssuer" .) }}
{{- $wrong = append $wrong (printf "app.certmanager.issuer.enabled: %s says who signs; set it to false (and app.runtimeConfiguration to nothing)" $elsewhere) }}
{{- end }}
{{- if not (or $elsewhere (include "ensign.oneIssuer" .)) }}
{{- $wrong = append $wrong "app.certmanager.issuer.enabled: nobody signs without it; name an issuer, or set app.runtimeConfiguration.name, ra.policy or ra.config.EXTERNAL_CA" }}
{{- end }}
{{- if and (eq (include "ensign.servingFrom" .) "issuer") (not (include "ensign.oneIssuer" .)) }}
{{- $wrong = append $wrong "ra.servingFrom: no issuer signs for everybody; use secret, or config with ENSIGN_RA_SERVING_FROM in ra.config" }}
{{- end }}
{{- $own := include "ensign.raOwnSettings" . | fromJson }}
{{- range $name, $_ := $ra.config }}
{{- if hasKey $own $name }}
{{- $wrong = append $wrong (printf "ra.config.%s: another value of the chart sets it, to %s; change that one (docs/chart.md)" $name (get $own $name)) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if $agent.enabled }}
{{- if and $agent.existingConfigMap $agent.config }}
{{- $wrong = append $wrong "agent.existingConfigMap: it holds all settings of the agent; move agent.config there" }}
{{- end }}
{{- if not (or $ra.enabled $agent.existingConfigMap (get $agent.config "CA_ADDR")) }}
{{- $wrong = append $wrong "agent.config.CA_ADDR: with ra.enabled=false it must name the authority, such as istiod.istio-system.svc:15012" }}
{{- end }}
{{- if and .Values.networkPolicy.enabled (include "ensign.authorityElsewhere" .) (not .Values.networkPolicy.authorityPorts) }}
{{- $wrong = append $wrong "networkPolicy.authorityPorts: agent.config.CA_ADDR, agent.existingConfigMap or ra.enabled=false says whom the agents ask, and a policy matches the port of that authority's pods, which no address tells; name it, such as 15012 for istiod, 6443 for istio-csr or an RA of ours" }}
{{- end }}
{{- range $name := list "TRUST_DOMAIN" "ISTIO_META_CLUSTER_ID" }}
{{- if hasKey $agent.config $name }}
{{- $wrong = append $wrong (printf "agent.config.%s: RA and agent must agree on it; use %s" $name (ternary "app.tls.trustDomain" "app.server.clusterID" (eq $name "TRUST_DOMAIN"))) }}
{{- end }}
{{- end }}
{{- $values := dict "ENSIGN_TOKEN_AUDIENCE" "agent.csi.tokenAudience" "ENSIGN_KUBELET_DIR" "agent.kubeletDir" "ENSIGN_LOG_FORMAT" "agent.logFormat" "ENSIGN_DRAIN_TIMEOUT" "agent.drainTimeoutSeconds" }}
{{- range $name, $value := $values }}
{{- if hasKey $agent.config $name }}
{{- $wrong = append $wrong (printf "agent.config.%s: more than the agent must know it; use %s" $name $value) }}
{{- end }}
{{- end }}
{{- range $name := list "ENSIGN_SOURCE" "ENSIGN_STATE_DIR" "ENSIGN_ADMIN_ADDR" "CA_ROOT_CA" }}
{{- if hasKey $agent.config $name }}
{{- $wrong = append $wrong (printf "agent.config.%s: mounts and probes of the DaemonSet are for its default; leave it out" $name) }}
{{- end }}
{{- end }}
{{- $update := $agent.updateStrategy }}
{{- if and (eq $update.type "RollingUpdate") $update.rollingUpdate }}
{{- $zero := list "0" "0%" "" }}
{{- $surge := has (toString ($update.rollingUpdate.maxSurge | default 0)) $zero }}
{{- $unavailable := has (toString ($update.rollingUpdate.maxUnavailable | default 0)) $zero }}
{{- if eq $surge $unavailable }}
{{- $wrong = append $wrong "agent.updateStrategy.rollingUpdate: exactly one of maxSurge and maxUnavailable is 0 in a DaemonSet (Kubernetes, RollingUpdateDaemonSet); set the other to 0" }}
{{- end }}
{{- end }}
{{- if and (not $agent.priorityClassName) (or $agent.resourceQuota.enabled (eq .Values.global.platform "gke")) }}
{{- $wrong = append $wrong "agent.priorityClassName: the ResourceQuota is for pods of a priority; name one, or set agent.resourceQuota.enabled and global.platform to nothing" }}
{{- end }}
{{- end }}
{{- if $wrong }}
{{- fail (printf "\n- %s" (join "\n- " $wrong)) }}
{{- end }}
{{- end -}}
