"""HTTP plumbing of the three servers: answers, health routes, CORS, bodies, headers and rate limits."""
