"""Amazon Web Services: EC2, Auto Scaling groups, the endpoints and the secrets that lie there."""
