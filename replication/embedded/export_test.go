package embedded

// RoutePassword is what a voter shows, for those who pretend to be one.
func (c *Cluster) RoutePassword() string { return c.password() }

// ClientAddr is where the server listens, if it does.
func (s *Server) ClientAddr() string { return s.nats.Addr().String() }
