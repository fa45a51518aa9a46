"""The viewer: runs as one HTML page that needs no server and no network, or served while they train."""

from policyopt.report.viewer.collect import Collected, ViewError, collect
from policyopt.report.viewer.page import page, write_page
from policyopt.report.viewer.serve import Server

__all__ = ["Collected", "Server", "ViewError", "collect", "page", "write_page"]
