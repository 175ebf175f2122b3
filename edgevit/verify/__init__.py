"""The verdict: does the artifact compute what PyTorch computes?"""
