package appspec

// value is what one node of the file means to the agent.
type value struct{}
