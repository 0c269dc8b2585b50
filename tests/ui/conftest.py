from tests.ui.sites import client, site, word

__all__ = ["client", "site", "word"]
