"""Memory: what a conversation's earlier turns said, found beside a request and told to the model.

Nothing here makes a request wait longer than its route allows, and no request waits for a write.
"""
