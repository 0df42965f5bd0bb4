"""The way out of nodes without internet: an SSH forward through a gateway, or a proxy of the site's.

What asks for it gets proxychains' library and a configuration of this job's and this node's own. Everything
else, and all that goes to loopback, private networks and the node's own, stays direct: Ray's traffic, too.
"""

from runner.egress.plan import prefix

__all__ = ["prefix"]
