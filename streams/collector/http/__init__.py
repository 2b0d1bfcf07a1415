"""The collector over HTTP: routes, limits, and how refused requests are answered."""
