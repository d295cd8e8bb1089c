package embedded

// RoutePassword is what a voter shows, for those who pretend to be one.
func (c *Cluster) RoutePassword() string { return c.password() }

// ClientAddr is where the server listens, if it does.
func (s *Server) ClientAddr() string { return s.nats.Addr().String() }

// Syncs tells whether the server of this member syncs each message.
func (m *Member) Syncs() bool {
	s := m.server.Load()
	return s != nil && s.nats.JetStreamConfig().SyncAlways
}

// NumRoutes is how many connections of other voters the server has let in.
func (s *Server) NumRoutes() int { return s.nats.NumRoutes() }

// LogLine is what becomes of a line that the server logs.
var LogLine = text
