"""Section 4.3 and appendix D.2: the frozen speech and face generators behind two small interfaces."""
