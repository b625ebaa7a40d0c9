from tests.page.conftest import ranker

__all__ = ["ranker"]
