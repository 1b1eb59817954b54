"""The HTTP API of the query service: routes, requests, authentication, limits, telemetry, errors.   [fastapi]"""
