package consensus

import "context"

func (c *Consensus) acceptRaft(ctx context.Context, s Stream) { s.Close() }
func (c *Consensus) acceptObserve(ctx context.Context, s Stream) { s.Close() }
