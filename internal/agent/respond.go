package agent

import (
	"encoding/json"

	"github.com/gitopsd/gitopsd/internal/rollout"
)

// refusedBy reads a Machine's response: one sentence when it refused, else "".
func refusedBy(response []byte) string {
	var r rollout.Response
	if len(response) == 0 || json.Unmarshal(response, &r) != nil || r.OK {
		return ""
	}
	if r.Refused == "" {
		return "refused without a reason"
	}
	return r.Refused
}
