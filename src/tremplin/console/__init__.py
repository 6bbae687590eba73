"""The console: server-rendered pages. A page is a template plus a documented context."""
