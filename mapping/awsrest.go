package mapping

import "strings"

// readAWSREST reads the AWS REST protocols in S3's style: what is done stands in
// method, path and query, and what it is done to in host and path. The body, an
// object or XML, passes unread. Arguments: service and region, as far as the host
// names them; bucket and key; and params, the query without the credentials of a
// presigned request.
func readAWSREST(in *input) {
	m := in.m
	args := make(map[string]any, 5)
	bucket := ""
	if service, region, inHost, ok := awsHost(m.Host); ok {
		args["service"] = service
		if region != "" {
			args["region"] = region
		}
		bucket = inHost
	}
	if bucket == "" {
		bucket = m.params["bucket"]
	}
	if key := m.params["key"]; key != "" {
		args["key"] = key
	}
	if bucket != "" {
		args["bucket"] = bucket
	}
	params := make(map[string]any, len(m.query))
	for k, v := range m.query {
		if credentialField(k) {
			continue
		}
		if _, twice := v.([]any); twice {
			in.duplicate(k)
			continue
		}
		params[k] = v
	}
	in.foldClash(params)
	args["params"] = params
	in.add(args, true)
}

// awsHost takes an AWS endpoint apart: SERVICE.REGION.amazonaws.com,
// SERVICE.amazonaws.com, and S3's s3-REGION, dualstack, fips, accelerate and
// BUCKET.s3 forms. A bucket with dots is told by what follows it.
func awsHost(host string) (service, region, bucket string, ok bool) {
	rest, found := strings.CutSuffix(host, ".amazonaws.com")
	if !found {
		if rest, found = strings.CutSuffix(host, ".amazonaws.com.cn"); !found {
			return "", "", "", false
		}
	}
	labels := strings.Split(rest, ".")
	for i := len(labels) - 1; i >= 0; i-- { // from the right: a bucket may be called s3
		l := labels[i]
		if l != "s3" && !strings.HasPrefix(l, "s3-") {
			continue
		}
		tail := labels[i+1:]
		if len(tail) > 0 && tail[0] == "dualstack" {
			tail = tail[1:]
		}
		if len(tail) > 1 {
			return "", "", "", false
		}
		if len(tail) == 1 {
			region = tail[0]
		} else if r, dash := strings.CutPrefix(l, "s3-"); dash && r != "accelerate" && r != "fips" && r != "website" {
			region = r
		}
		return "s3", region, strings.Join(labels[:i], "."), true
	}
	switch len(labels) {
	case 1:
		return labels[0], "", "", true
	case 2:
		return labels[0], labels[1], "", true
	}
	return "", "", "", false
}
