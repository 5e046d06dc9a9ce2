/**
 * The worker's image: one that lies in a registry, or one made of the binary that was built before.
 */
import { copyFileSync, existsSync, mkdtempSync } from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { aws_ecr as ecr, aws_ecr_assets as assets, aws_ecs as ecs, Stack } from 'aws-cdk-lib';
import type { Construct } from 'constructs';
import { REPOSITORY } from './stack-file';

export type WorkerImage =
  /** `ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG` (or `@sha256:…`). */
  | { readonly uri: string }
  /** The binary: an image is made of it and `functions/worker/Dockerfile` at deployment, which needs Docker. */
  | { readonly binary: string };

export interface MadeImage {
  readonly image: ecs.ContainerImage;
  /** None where the image is not in ECR: then nothing of ECR may be read. */
  readonly repositoryArn?: string;
}

export function workerImage(scope: Construct, given: WorkerImage, architecture: 'x86_64' | 'arm64'): MadeImage {
  if ('uri' in given) {
    const match = given.uri.match(/^(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?\/([^:@]+)/);
    const image = ecs.ContainerImage.fromRegistry(given.uri);
    if (!match) return { image };
    const [, account, region, resourceName] = match;
    // No registry is read across partitions.
    return { image, repositoryArn: Stack.of(scope).formatArn({ service: 'ecr', account, region, resource: 'repository', resourceName }) };
  }
  if (!existsSync(given.binary)) {
    throw new Error(`${given.binary} is not there: build the worker first (infra/README.md says how), or give worker.image.uri`);
  }
  // A folder of exactly two files: the image's hash then changes with these and nothing else.
  const folder = mkdtempSync(path.join(os.tmpdir(), 'krossing-worker-'));
  copyFileSync(path.join(REPOSITORY, 'functions/worker/Dockerfile'), path.join(folder, 'Dockerfile'));
  copyFileSync(given.binary, path.join(folder, 'krossing-worker'));
  const asset = new assets.DockerImageAsset(scope, 'WorkerImage', {
    directory: folder,
    platform: architecture === 'arm64' ? assets.Platform.LINUX_ARM64 : assets.Platform.LINUX_AMD64,
  });
  return { image: ecs.ContainerImage.fromEcrRepository(asset.repository as ecr.IRepository, asset.imageTag), repositoryArn: asset.repository.repositoryArn };
}
