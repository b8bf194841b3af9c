{{/*
Prefix of every object's name; short enough for the suffixes: a CronJob's name has at most 52 characters. A release's name
may have dots and begin with a digit, a Service's may not.
*/}}
{{- define "backdrop.fullname" -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- if regexMatch "^[0-9]" $name -}}
{{- $name = printf "%s-%s" .Chart.Name .Release.Name -}}
{{- end -}}
{{- .Values.fullnameOverride | default $name | lower | replace "." "-" | replace "_" "-" | trunc 46 | regexFind "^.*[a-z0-9]" -}}
{{- end }}

{{/*
Not empty if Helm, or a tool that runs its hooks, talks to a cluster. `helm template` alone knows no API of this group,
which every cluster has: there all objects are applied at once, so that only one of two opposite Jobs may be rendered.
*/}}
{{- define "backdrop.live" -}}
{{- if .Capabilities.APIVersions.Has "apiregistration.k8s.io/v1" }}true{{ end -}}
{{- end }}

{{/* Labels that select every pod of the release, and no pod of the pipeline. */}}
{{- define "backdrop.releaseSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels that select the pods of a component. Takes a dict: root, component. */}}
{{- define "backdrop.selector" -}}
{{ include "backdrop.releaseSelector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The chart's own labels, which no value replaces. Takes a dict: root, component. */}}
{{- define "backdrop.labels" -}}
{{ include "backdrop.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: backdrop
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels and annotations of every object. Takes a dict: root, component; annotations (optional), its own. */}}
{{- define "backdrop.about" -}}
{{- $common := .root.Values -}}
labels: {{- merge (include "backdrop.labels" . | fromYaml) ($common.commonLabels | default dict) | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) ($common.commonAnnotations | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same of every pod. */}}
{{- define "backdrop.podAbout" -}}
{{- $pod := .root.Values -}}
{{- $labels := merge (include "backdrop.labels" . | fromYaml) ($pod.podLabels | default dict) ($pod.commonLabels | default dict) -}}
labels: {{- toYaml $labels | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) ($pod.podAnnotations | default dict) ($pod.commonAnnotations | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Service account of the Jobs and `helm test`. */}}
{{- define "backdrop.account" -}}
{{- with .Values.serviceAccount -}}
{{ .name | default (.create | ternary (include "backdrop.fullname" $) "default") }}
{{- end -}}
{{- end }}

{{/* Service account of the preflight Job: one of its own, because it may list nodes, or that of the other Jobs. */}}
{{- define "backdrop.preflightAccount" -}}
{{ include "backdrop.account" . }}{{ if .Values.serviceAccount.create }}-preflight{{ end }}
{{- end }}

{{/* Service account of MLflow. */}}
{{- define "backdrop.mlflowAccount" -}}
{{- with .Values.mlflow.serviceAccount -}}
{{ .name | default (.create | ternary (printf "%s-mlflow" (include "backdrop.fullname" $)) "default") }}
{{- end -}}
{{- end }}

{{/* Service account of serving. */}}
{{- define "backdrop.servingAccount" -}}
{{- with .Values.serving.serviceAccount -}}
{{ .name | default (.create | ternary (printf "%s-serving" (include "backdrop.fullname" $)) "default") }}
{{- end -}}
{{- end }}

{{/* A model's address; by default the champion of the model that the pipeline trains. Takes a dict: root, model. */}}
{{- define "backdrop.modelOr" -}}
{{- with .root.Values.pipeline -}}
{{ $.model | default (printf "models:/%s@champion" (.model | default .ensemble)) }}
{{- end -}}
{{- end }}

{{/* A hook that is deleted when it succeeds, and whose log `helm` prints. Takes a dict: on, weight. */}}
{{- define "backdrop.hook" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | default 0 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-succeeded,hook-failed
{{- end }}

{{/* An image's reference, by digest if there is one. Takes a dict: image, tag (the default tag). */}}
{{- define "backdrop.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
{{- end -}}
{{- end }}

{{/* The settings of the pipeline's tasks, in the ConfigMap `backdrop`. */}}
{{- define "backdrop.settings" -}}
MLFLOW_TRACKING_URI: {{ include "backdrop.trackingUri" . | quote }}
MLFLOW_EXPERIMENT_NAME: {{ .Values.tracking.experiment | quote }}
{{- with .Values.s3.endpoint }}
AWS_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- with .Values.s3.region }}
AWS_DEFAULT_REGION: {{ . | quote }}
{{- end }}
{{- with .Values.pretrained.mirror }}
BACKDROP_PRETRAINED_MIRROR: {{ . | quote }}
{{- end }}
{{- end }}

{{/* MLflow's address: the chart's own server, or an existing one. */}}
{{- define "backdrop.trackingUri" -}}
{{- if .Values.mlflow.enabled -}}
http://{{ include "backdrop.fullname" . }}-mlflow.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:{{ .Values.mlflow.port }}
{{- else -}}
{{ .Values.tracking.uri }}
{{- end -}}
{{- end }}

{{/* Every name by which a pod or a forwarded port may call MLflow. Exact names, because a wildcard lets others in. */}}
{{- define "backdrop.allowedHosts" -}}
{{- $short := printf "%s-mlflow" (include "backdrop.fullname" .) -}}
{{- $long := printf "%s.%s" $short .Release.Namespace -}}
{{- $full := printf "%s.svc.%s" $long .Values.clusterDomain -}}
{{- $hosts := list -}}
{{- range list $short $long (printf "%s.svc" $long) $full "localhost" "127.0.0.1" -}}
{{- $hosts = concat $hosts (list . (printf "%s:%v" . $.Values.mlflow.port)) -}}
{{- end -}}
{{- concat $hosts (.Values.mlflow.allowedHosts | default list) | join "," -}}
{{- end }}

{{/* The claim of MLflow's volume: our own or an existing one; empty if neither database nor artifacts need it. */}}
{{- define "backdrop.mlflowClaim" -}}
{{- if or (eq .Values.mlflow.database "sqlite") (not .Values.mlflow.artifacts) -}}
{{ .Values.mlflow.volume.existingClaim | default (printf "%s-mlflow" (include "backdrop.fullname" .)) }}
{{- end -}}
{{- end }}

{{/* Where tasks run, as the pipeline's run-time parameters. The only place that reads gpu.nodePool. */}}
{{- define "backdrop.nodes" -}}
{{- with .Values.gpu.nodePool -}}
accelerator: {{ .accelerator | quote }}
gpus: {{ .gpus | quote }}
cpu: {{ .cpu | quote }}
memory: {{ .memory | quote }}
node_selector: {{ .nodeSelector | default dict | toJson }}
tolerations: {{ .tolerations | default list | toJson }}
{{- end }}
cpu_node_selector: {{ .Values.nodeSelector | default dict | toJson }}
cpu_tolerations: {{ .Values.tolerations | default list | toJson }}
{{- end }}

{{/* Settings of the Ray cluster: its pods have the tasks' account, and so their pull secrets and their role in a cloud. */}}
{{- define "backdrop.rayCluster" -}}
{{- $account := .Values.tuning.ray | ternary (dict "service_account" .Values.schedule.serviceAccount) dict -}}
{{- merge (dict) (.Values.tuning.cluster | default dict) $account | toJson -}}
{{- end }}

{{/* The files in /etc/backdrop: the pipeline's run-time parameters, and pipeline.files. */}}
{{- define "backdrop.files" -}}
params.yaml: |
  {{- with .Values.pipeline }}
  data: {{ .data | quote }}
  {{- with .model }}
  name: {{ . | quote }}
  {{- end }}
  work: {{ .work | quote }}
  objects: {{ int .objects }}
  promotion: {{ .promotion }}
  {{- end }}
  ray_workers: {{ int .Values.tuning.workers }}
  ray_cluster: {{ include "backdrop.rayCluster" . }}
  {{- include "backdrop.nodes" . | nindent 2 }}
{{- if .Values.prediction.schedule }}
prediction.yaml: |
  {{- with .Values.prediction }}
  images: {{ .images | quote }}
  model: {{ include "backdrop.modelOr" (dict "root" $ "model" .model) | quote }}
  out: {{ .out | quote }}
  work: {{ .work | quote }}
  format: {{ .format }}
  background: {{ .background | default "" | quote }}
  crop: {{ float64 .crop | printf "%.2f" }}
  type: {{ .type }}
  {{- end }}
  {{- include "backdrop.nodes" . | nindent 2 }}
{{- end }}
{{- with .Values.pipeline.files }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
Egress to the server of a URL. Takes a dict: root, url. A Service is known by its namespace; its pods listen on another
port than 80 or 443 as a rule, and it is theirs that a policy sees. Any other name can't be in a policy, but its port can.
A name of two parts may be either: minio.store is a Service to a pod, example.com isn't.
*/}}
{{- define "backdrop.egressTo" -}}
{{- with .url -}}
{{- $url := urlParse . -}}
{{- $host := lower $url.hostname -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (eq $url.scheme "https" | ternary "443" "80") -}}
{{- $ports := dict "ports" (list (dict "protocol" "TCP" "port" (int $port))) -}}
{{- $service := trimSuffix "." $host | trimSuffix (printf ".%s" $.root.Values.clusterDomain) -}}
{{- $pods := dict "podSelector" dict -}}
{{- if contains "." $service -}}
{{- $namespace := trimSuffix ".svc" $service | splitList "." | last -}}
{{- $pods = dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" $namespace)) -}}
{{- end -}}
{{- $to := dict "to" (list $pods) -}}
{{- $mapped := has $port (list "80" "443") -}}
{{- if or (hasSuffix ".svc" $service) (not (regexMatch "[.:]" $service)) -}}
{{- list ($mapped | ternary $to (merge $ports $to)) | toYaml -}}
{{- else if and $mapped (regexMatch "^[^.:]+[.][^.:]+$" $host) -}}
{{- list $ports $to | toYaml -}}
{{- else -}}
{{- list $ports | toYaml -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Egress to the chart's own MLflow server, if there is one. */}}
{{- define "backdrop.egressToMlflow" -}}
{{- if .Values.mlflow.enabled -}}
- to:
    - podSelector:
        matchLabels: {{- include "backdrop.selector" (dict "root" . "component" "mlflow") | nindent 10 }}
  ports: [{protocol: TCP, port: {{ .Values.mlflow.port }}}]
{{- end -}}
{{- end }}

{{/* Egress of whatever works on data and models: DNS, the servers of the values, MLflow, and what is outside. */}}
{{- define "backdrop.egressOfWork" -}}
{{- concat .Values.networkPolicy.dns (.Values.networkPolicy.outside | default list) | toYaml }}
{{- range list .Values.kfp.endpoint .Values.s3.endpoint .Values.tracking.uri (.Values.pretrained.mirror | default "" | regexFind "^http.*") | uniq }}
{{- with include "backdrop.egressTo" (dict "root" $ "url" .) }}
{{ . }}
{{- end }}
{{- end }}
{{- with include "backdrop.egressToMlflow" . }}
{{ . }}
{{- end }}
{{- end }}

{{/* Ingress from the peers in a list; from nobody if it is empty, which in a rule would mean everybody. */}}
{{- define "backdrop.ingress" -}}
{{- if . -}}
ingress:
  - from: {{- toYaml . | nindent 6 }}
    ports: [{protocol: TCP, port: http}]
{{- else -}}
ingress: []
{{- end -}}
{{- end }}

{{/* A company's proxy and certificates, from the ConfigMap that the pipeline's tasks read too. No proxy reaches a Service. */}}
{{- define "backdrop.networkEnv" -}}
- name: NETWORK_NO_PROXY
  valueFrom: {configMapKeyRef: {name: backdrop-network, key: NO_PROXY, optional: true}}
- {name: NO_PROXY, value: "localhost,127.0.0.1,::1,.svc,.svc.{{ .Values.clusterDomain }},$(NETWORK_NO_PROXY)"}
{{- range list "HTTP_PROXY" "HTTPS_PROXY" "REQUESTS_CA_BUNDLE" "SSL_CERT_FILE" "AWS_CA_BUNDLE" }}
- name: {{ . }}
  valueFrom: {configMapKeyRef: {name: backdrop-network, key: {{ . }}, optional: true}}
{{- end }}
{{- end }}

{{/* The settings of the pipeline's tasks, and the keys that they get from the Secret `backdrop`. */}}
{{- define "backdrop.trackingEnv" -}}
{{- range $name, $value := include "backdrop.settings" . | fromYaml }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- range list "MLFLOW_TRACKING_USERNAME" "MLFLOW_TRACKING_PASSWORD" "MLFLOW_TRACKING_TOKEN" "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" "AWS_SESSION_TOKEN" }}
- name: {{ . }}
  valueFrom: {secretKeyRef: {name: backdrop, key: {{ . }}, optional: true}}
{{- end }}
{{- end }}

{{/* Otherwise its networks would use as many threads as the node has cores. */}}
{{- define "backdrop.threadsEnv" -}}
- name: OMP_NUM_THREADS
  valueFrom: {resourceFieldRef: {resource: limits.cpu}}
{{- end }}

{{/* A volume on the node's disk. A container can write nowhere else, so its limit is the volume's. Takes its resources. */}}
{{- define "backdrop.disk" -}}
emptyDir: {{ with get (.limits | default dict) "ephemeral-storage" }}{sizeLimit: {{ . }}}{{ else }}{}{{ end }}
{{- end }}

{{/* Where a pod runs, and its pull secrets. Service links would set variables such as MLFLOW_PORT, which MLflow reads. */}}
{{- define "backdrop.place" -}}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{/*
A pod that runs one command in Backdrop's image, with a token for Kubeflow Pipelines. Takes a dict: root, account,
command (a list); files (optional), the ConfigMap to mount at /etc/backdrop; tracking (optional), true for the environment
of the pipeline's tasks; kubernetes (optional), true for a token of the Kubernetes API; volume (optional), the claim to mount
at /mnt/backdrop; resources (optional), if not those of other Jobs.
*/}}
{{- define "backdrop.jobPod" -}}
{{- $image := include "backdrop.image" (dict "image" .root.Values.image "tag" .root.Chart.AppVersion) -}}
{{- $cpu := include "backdrop.image" (dict "image" .root.Values.image.cpu "tag" .root.Chart.AppVersion) -}}
{{- $resources := .resources | default .root.Values.jobs.resources -}}
restartPolicy: Never
serviceAccountName: {{ .account | quote }}
automountServiceAccountToken: {{ .kubernetes | default false }}
{{ include "backdrop.place" .root }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
containers:
  - name: backdrop
    image: {{ $cpu | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: {{ .command | toJson }}
    env:
      - {name: HOME, value: /tmp}
      {{- include "backdrop.threadsEnv" . | nindent 6 }}
      # The tasks' images, for Jobs that compile the pipeline.
      - {name: BACKDROP_IMAGE, value: {{ $image | quote }}}
      - {name: BACKDROP_CPU_IMAGE, value: {{ $cpu | quote }}}
      - {name: KF_PIPELINES_ENDPOINT, value: {{ .root.Values.kfp.endpoint | quote }}}
      - {name: KF_PIPELINES_SA_TOKEN_PATH, value: /var/run/secrets/kubeflow/pipelines/token}
      {{- include "backdrop.networkEnv" .root | nindent 6 }}
      {{- if .tracking }}
      {{- include "backdrop.trackingEnv" .root | trim | nindent 6 }}
      {{- end }}
    resources: {{- toYaml $resources | nindent 6 }}
    securityContext: {{- toYaml .root.Values.securityContext | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      - {name: kfp-token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
      {{- if .files }}
      - {name: files, mountPath: /etc/backdrop, readOnly: true}
      {{- end }}
      - {name: network, mountPath: /etc/backdrop/network, readOnly: true}
      {{- if .volume }}
      - {name: volume, mountPath: /mnt/backdrop}
      {{- end }}
volumes:
  - name: tmp
    {{- include "backdrop.disk" $resources | nindent 4 }}
  - name: network
    configMap: {name: backdrop-network, optional: true}
  - name: kfp-token
    projected:
      sources:
        - serviceAccountToken: {path: token, expirationSeconds: 7200, audience: pipelines.kubeflow.org}
  {{- with .files }}
  - name: files
    configMap: {name: {{ . | quote }}}
  {{- end }}
  {{- with .volume }}
  - name: volume
    persistentVolumeClaim: {claimName: {{ . | quote }}}
  {{- end }}
{{- end }}

{{/* Refuses values that can't work, and says what to do. */}}
{{- define "backdrop.check" -}}
{{- $settings := lookup "v1" "ConfigMap" .Release.Namespace "backdrop" | default dict -}}
{{- $owner := dig "metadata" "annotations" "meta.helm.sh/release-name" .Release.Name $settings -}}
{{- if ne $owner .Release.Name -}}
{{- fail (printf "Release %s is in namespace %s already, and tasks find their settings there by one name, the ConfigMap backdrop. Install this release in another namespace: --namespace NAME" $owner .Release.Namespace) -}}
{{- end -}}
{{- $trains := or .Values.schedule.enabled .Values.preflight.enabled -}}
{{- $needsKfp := or $trains .Values.prediction.schedule -}}
{{- range $key := list "images" "out" "work" -}}
{{- if and $.Values.prediction.schedule (not (get $.Values.prediction $key)) -}}
{{- fail (printf "prediction.%s is empty. Set it to an S3 address, or to a folder in pipeline.volume: --set prediction.%s=s3://BUCKET/FOLDER" $key $key) -}}
{{- end -}}
{{- end -}}
{{- with .Values.prediction.schedule -}}
{{- if ne (len (regexSplit "\\s+" (trim .) -1)) 6 -}}
{{- fail (printf "prediction.schedule is %q, but it needs six fields. Start with the seconds: 0 0 * * * * is every hour" .) -}}
{{- end -}}
{{- end -}}
{{- range $key := list "images" "out" -}}
{{- if and $.Values.drift.schedule (not (get $.Values.drift $key)) -}}
{{- fail (printf "drift.%s is empty. Set it to an S3 address, or to a folder in pipeline.volume: --set drift.%s=s3://BUCKET/FOLDER" $key $key) -}}
{{- end -}}
{{- end -}}
{{- if and $trains (not .Values.pipeline.data) -}}
{{- fail "pipeline.data is empty, so there is nothing to train on. Set it to the dataset's address: --set pipeline.data=s3://BUCKET/FOLDER" -}}
{{- end -}}
{{- if and $needsKfp (not .Values.kfp.endpoint) -}}
{{- fail "kfp.endpoint is empty, but schedule, prediction and preflight call Kubeflow Pipelines. Set it: --set kfp.endpoint=http://ml-pipeline.kubeflow.svc.cluster.local:8888" -}}
{{- end -}}
{{- if and .Values.tuning.ray (not (hasPrefix "s3://" .Values.pipeline.work)) -}}
{{- fail "tuning.ray is true, but not all pods of a Ray cluster can reach pipeline.work. Set it to an S3 address: --set pipeline.work=s3://BUCKET/FOLDER" -}}
{{- end -}}
{{- if and .Values.tuning.ray (not .Values.schedule.serviceAccount) -}}
{{- fail "tuning.ray is true, but schedule.serviceAccount is empty. Set it to the account of the tasks' pods, such as default-editor, so that they may create RayJobs" -}}
{{- end -}}
{{- if and .Values.pipeline.volume .Values.tuning.ray -}}
{{- fail "pipeline.volume is set and tuning.ray is true, but a Ray cluster's pods don't have the volume. Leave one of them out" -}}
{{- end -}}
{{- if ne (len (regexSplit "\\s+" (trim .Values.schedule.cron) -1)) 6 -}}
{{- fail (printf "schedule.cron is %q, but it needs six fields. Start with the seconds: 0 0 2 * * 0 is Sundays at 2:00" .Values.schedule.cron) -}}
{{- end -}}
{{- range $part, $uses := dict "serving" .Values.serving.enabled "drift" .Values.drift.schedule -}}
{{- if and $uses (contains "/" $.Values.pipeline.ensemble) (not (or (get (get $.Values $part) "model") $.Values.pipeline.model)) -}}
{{- fail (printf "%s is on, but nothing names the model. Set pipeline.model, or %s.model: --set %s.model=models:/NAME@champion" $part $part $part) -}}
{{- end -}}
{{- end -}}
{{- $made := list -}}
{{- if .Values.serviceAccount.create -}}
{{- $made = append $made (list "serviceAccount" (include "backdrop.account" .)) -}}
{{- if .Values.preflight.enabled -}}
{{- $made = append $made (list "serviceAccount" (include "backdrop.preflightAccount" .)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.mlflow.enabled .Values.mlflow.serviceAccount.create -}}
{{- $made = append $made (list "mlflow.serviceAccount" (include "backdrop.mlflowAccount" .)) -}}
{{- end -}}
{{- if and .Values.serving.enabled .Values.serving.serviceAccount.create -}}
{{- $made = append $made (list "serving.serviceAccount" (include "backdrop.servingAccount" .)) -}}
{{- end -}}
{{- $creators := dict "default" "Kubernetes" -}}
{{- range $account := $made -}}
{{- $value := first $account -}}
{{- $name := last $account -}}
{{- with get $creators $name -}}
{{- fail (printf "%s and %s would both create the account %s. Let one create it: --set %s.create=false" . $value $name $value) -}}
{{- end -}}
{{- $creators = set $creators $name $value -}}
{{- end -}}
{{- if and .Values.mlflow.enabled .Values.tracking.uri -}}
{{- fail "tracking.uri names a server, but mlflow.enabled would start another. Set mlflow.enabled=false, or leave tracking.uri empty" -}}
{{- end -}}
{{- if not (or .Values.mlflow.enabled .Values.tracking.uri) -}}
{{- fail "There is no tracking server. Set mlflow.enabled=true, or set tracking.uri to the address of yours: --set tracking.uri=https://mlflow.example" -}}
{{- end -}}
{{- if and .Values.mlflow.enabled (eq .Values.mlflow.database "external") (not .Values.mlflow.existingSecret) -}}
{{- fail "mlflow.database is external, but mlflow.existingSecret is empty. Create a Secret with the key MLFLOW_BACKEND_STORE_URI, such as postgresql+psycopg2://USER:PASSWORD@HOST/DATABASE, and set mlflow.existingSecret to its name" -}}
{{- end -}}
{{- end }}
