"""The collector's HTTP API: routes, payloads, answers, rejections."""
